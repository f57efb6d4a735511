"""No case: what the meshed server's proxy has counted, as proof that the cases went through it, and by mutual TLS."""

from cases import case

# A pod's proxy tells its metrics here.
ADMIN_PORT = 4191


@case("metrics")
def metrics(site):
    return site.curl(f"http://server-meshed.foreign:{ADMIN_PORT}/metrics").decode()
