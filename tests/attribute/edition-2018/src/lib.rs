//! The cases are in `../tests/cases`.
