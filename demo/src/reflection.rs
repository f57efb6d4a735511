//! gRPC server reflection, with which `conduit tap --payload` tells what the messages of the demo are.

use tonic_reflection::server::{
    Builder,
    v1::{ServerReflection, ServerReflectionServer},
};

use crate::proto::DESCRIPTORS;

/// The service, to be served beside the one that it describes.
pub(crate) fn service() -> ServerReflectionServer<impl ServerReflection> {
    Builder::configure()
        .register_encoded_file_descriptor_set(DESCRIPTORS)
        .build_v1()
        .expect("they were compiled with this, and are whole")
}
