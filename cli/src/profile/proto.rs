//! From protobuf definitions to calls. Pure.

use anyhow::anyhow;

use super::calls::{Call, Calls};

/// The methods of the gRPC services that the file `name` defines; what it imports is not needed.
pub(super) fn calls(name: &str, text: &str) -> anyhow::Result<Calls> {
    let file = protox_parse::parse(name, text).map_err(|error| anyhow!("{name}: {error}"))?;
    let package = if file.package().is_empty() { String::new() } else { format!("{}.", file.package()) };
    let of_services = file.service.iter().flat_map(|service| {
        let package = &package;
        // gRPC's methods are HTTP's POST.
        service
            .method
            .iter()
            .map(move |method| Call::exact(None, &format!("/{package}{}/{}", service.name(), method.name())))
    });
    Ok(of_services.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_are_paths() {
        let text = "syntax = \"proto3\"; package emojivoto.v1; import \"elsewhere.proto\";
            service VotingService { rpc VoteDoughnut (elsewhere.A) returns (stream elsewhere.B); rpc Results (A) returns (A); }
            message A {}";
        let expected = ["VoteDoughnut", "Results"]
            .map(|method| Call::exact(None, &format!("/emojivoto.v1.VotingService/{method}")));
        assert_eq!(calls("voting.proto", text).unwrap(), expected.into_iter().collect());
        assert_eq!(calls("a.proto", "syntax = \"proto3\"; message A {}").unwrap(), Calls::default());
        let error = calls("broken.proto", "syntax = \"proto3\"; service {").unwrap_err().to_string();
        assert!(error.starts_with("broken.proto: "), "{error}");
    }
}
