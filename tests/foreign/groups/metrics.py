"""What the server's proxy has counted: not a case, but proof that the other cases took place where they should."""

from cases import case

ADMIN_PORT = 4191


@case("metrics")
def metrics(site):
    return site.curl(f"http://{site.server}:{ADMIN_PORT}/metrics").decode()
