//! How a page of the state's tree is asked for.
#![allow(missing_debug_implementations, reason = "the resolvers that rkyv derives inside a macro")]

use crate::Digest;
use rkyv::{Archive, Deserialize, Serialize};

/// A page of the state's tree, or a long value in one of its leaves: where it is, and the digest that vouches for it.
#[derive(Archive, Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct PageName {
    /// The children's indices from the root down.
    pub path: Vec<u8>,
    /// The entry in the leaf at the end of the path whose long value is meant; nothing for the page itself.
    pub entry: Option<u16>,
    /// The digest of the page or of the value.
    pub digest: Digest,
}
