"""tinyproxy: a forward proxy, which is itself in the mesh."""

PORT = 3128


def serve(site):
    """It tells what it forwards by `Via`, which is its own affair, and resolves names itself."""
    configuration = site.own / "tinyproxy.conf"
    # No `Allow` line: everybody may use it. No `ConnectPort` line: any port may be connected to.
    configuration.write_text(f"Port {PORT}\nTimeout 30\nMaxClients 50\nLogLevel Connect\n")
    site.start("tinyproxy", "-d", "-c", configuration, port=PORT)
