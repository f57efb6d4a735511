//! Compiles the protobuf contract with protox, so that no protoc is needed.

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let files = ["identity", "discovery", "telemetry", "tap", "public", "peer", "local", "route", "cache"];
    let descriptors = protox::compile(files.map(|name| format!("conduit/{name}.proto")), ["proto"])?;
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let build = tonic_prost_build::configure()
        .btree_map(".")
        // Shared between streams, not copied.
        .bytes(".conduit.discovery.v1.TargetUpdate")
        .codec_path("crate::codec::SmallProstCodec");
    build.clone().compile_fds(descriptors)?;
    // Not ours, and not the control plane's to tell of.
    build.clone().compile_fds(protox::compile(["spiffe/workload.proto"], ["proto"])?)?;
    build.build_server(false).compile_fds(protox::compile(["opentelemetry/trace.proto"], ["proto"])?)?;
    Ok(())
}
