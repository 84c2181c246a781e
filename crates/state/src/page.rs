//! Reading pages: any bytes give what a canonical page says, or what is wrong with them.

use thiserror::Error;

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PageFault {
    /// It ends too early.
    #[error("it is cut off")]
    Short,
    /// Bytes follow its end.
    #[error("something follows its end")]
    Long,
    /// It is of another kind than its place in the tree asks for, or a value stands in the wrong form.
    #[error("it is of another kind")]
    Kind,
    /// A key or value is longer than any may be.
    #[error("a key or value in it is too long")]
    Length,
    /// Its keys do not ascend, or lie outside of what the node is for.
    #[error("its keys are not in order")]
    Order,
    /// The node is too heavy or too light for a tree that history has formed.
    #[error("it is heavier or lighter than a node may be")]
    Weight,
    /// Its digest is not the one that was named.
    #[error("its digest is another")]
    Digest,
    /// The tree is higher than any may be.
    #[error("the tree is too high")]
    Height,
}

/// Reads fields one after the other.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, count: usize) -> Result<&'a [u8], PageFault> {
        let (bytes, rest) = self.0.split_at_checked(count).ok_or(PageFault::Short)?;
        self.0 = rest;
        Ok(bytes)
    }

    pub(crate) fn array<const COUNT: usize>(&mut self) -> Result<[u8; COUNT], PageFault> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(PageFault::Short)?;
        self.0 = rest;
        Ok(*bytes)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, PageFault> {
        self.array().map(|[byte]| byte)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, PageFault> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, PageFault> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, PageFault> {
        self.array().map(u64::from_le_bytes)
    }

    /// What was not read.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn end(&self) -> Result<(), PageFault> {
        if self.0.is_empty() { Ok(()) } else { Err(PageFault::Long) }
    }
}
