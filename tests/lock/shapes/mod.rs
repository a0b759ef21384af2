//! Permits, shards and readers, over stores that grant their modes and over one that grants every
//! claim alone.
mod dropped;
mod nested;
mod permits;
mod shards;
mod shared;
mod way;
