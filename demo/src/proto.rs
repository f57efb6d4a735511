//! Generated messages, clients and servers; the comments are in `proto/`.

#![allow(missing_docs, reason = "generated code")]
#![allow(clippy::all, reason = "generated code")]

tonic::include_proto!("emojivoto.v1");
