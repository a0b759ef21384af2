//! Functions of every shape under the attribute, run: each case asserts the key that was locked, and the order of what happened.
