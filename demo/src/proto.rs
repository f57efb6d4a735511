//! Generated messages, clients and servers; the comments are in `proto/`.

#![allow(missing_docs, reason = "generated code")]
#![allow(clippy::all, reason = "generated code")]

tonic::include_proto!("emojivoto.v1");

/// All of the above as an encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
