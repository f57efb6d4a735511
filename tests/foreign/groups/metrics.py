"""No case: what the meshed clients' proxies have counted, as proof that the cases went through them, and by mutual TLS."""

from cases import case

# A pod's proxy tells its metrics here.
ADMIN_PORT = 4191


@case("metrics")
def metrics(site):
    pods = [path.name for path in site.work.glob("*-meshed") if path.is_dir()]
    return {pod: site.curl(f"http://{pod}.foreign:{ADMIN_PORT}/metrics").decode() for pod in pods}
