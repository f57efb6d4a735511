"""Checks the SPIFFE Workload API of two workloads of a running mesh with py-spiffe, unmodified.

    python3 tests/spiffe/check.py SOCKET SPIFFE-ID OTHER-SOCKET

The first socket must give the SPIFFE id; a token by it must be believed at the other one.
"""

import sys

from cryptography.x509 import ExtensionOID, UniformResourceIdentifier
from cryptography.x509.verification import PolicyBuilder, Store
from spiffe import JwtSource, TrustDomain, WorkloadApiClient, X509Source

socket, expected, other = sys.argv[1:]
domain = TrustDomain(expected.split("/")[2])

with X509Source(socket_path=f"unix://{socket}", timeout_in_seconds=10) as source:
    svid = source.svid
    assert str(svid.spiffe_id) == expected, svid.spiffe_id
    names = svid.leaf.extensions.get_extension_for_oid(ExtensionOID.SUBJECT_ALTERNATIVE_NAME).value
    assert list(names.get_values_for_type(UniformResourceIdentifier)) == [expected], names
    # The key is the certificate's.
    assert svid.private_key.public_key() == svid.leaf.public_key()
    # RFC 5280's path validation, by an implementation that is neither ours nor OpenSSL's.
    roots = source.get_bundle_for_trust_domain(domain).x509_authorities
    verifier = PolicyBuilder().store(Store(list(roots))).build_client_verifier()
    verified = verifier.verify(svid.leaf, svid.cert_chain[1:])
    assert len(verified.chain) >= 3, verified.chain

with JwtSource(socket_path=f"unix://{socket}", timeout_in_seconds=10) as source:
    token = source.fetch_svid(audience={"voting", "emoji"})
    assert str(token.spiffe_id) == expected and token.audience == {"voting", "emoji"}, token
    assert source.get_bundle_for_trust_domain(domain).jwt_authorities

with WorkloadApiClient(f"unix://{other}") as client:
    believed = client.validate_jwt_svid(token.token, "voting")
    assert str(believed.spiffe_id) == expected, believed
    try:
        client.validate_jwt_svid(token.token, "somebody-else")
    except Exception as error:
        assert "not for the audience" in str(error), error
    else:
        sys.exit("a token for others was believed")
    bundles = client.fetch_jwt_bundles()
    assert bundles.get_bundle_for_trust_domain(domain).jwt_authorities

print(f"{expected}: certificate, bundle and token are good")
