//! The promises, each a function named after what it promises.
//!
//! They check each clause of the [contract](lock_protocol::Backend#the-contract). Beyond its letter
//! they want that a healthy store delivers its news, since waiting would be slow without.

mod ends;
mod exclusion;
mod fences;
mod keeps;
mod modes;
mod modes_waiting;
mod news;
mod polls;
mod queue;
mod renewals;
mod repeats;
mod withdrawals;

pub use self::ends::*;
pub use self::exclusion::*;
pub use self::fences::*;
pub use self::keeps::*;
pub use self::modes::*;
pub use self::modes_waiting::*;
pub use self::news::*;
pub use self::polls::*;
pub use self::queue::*;
pub use self::renewals::*;
pub use self::repeats::*;
pub use self::withdrawals::*;
