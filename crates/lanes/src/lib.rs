//! Batching, dissemination, acknowledgement and fetch of client bundles.
