//! The modules of a crate, their dependencies, and cycles.

mod graph;
mod rooms;
mod source;

pub(super) use graph::Graph;
pub(super) use rooms::{CRATE as DIVIDED_CRATE, check as check_rooms, check_files};
