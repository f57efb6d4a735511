"""Servers that speak first, and databases: each with its own client. Nobody tells the mesh what they speak."""

import asyncio
import contextlib
import ftplib
import glob
import hashlib
import io
import os
import pwd
import re
import shutil
import smtplib
import socket
import ssl
import statistics
import time

from cases import START_SECONDS, case

MARIADB, POSTGRES, SMTP, NATS, REDIS, FTP = 3306, 5432, 25, 4222, 6379, 21
# Ports that nobody expects these on.
MARIADB_ODD, SMTP_ODD = 8306, 8025
# Connections whose time to the first byte is measured. The quickest quarter counts: a mesh that waits for the client to speak does so at
# every one, and a busy machine holds up some.
GREETINGS = 12


def serve(site):
    mariadb(site)
    postgres(site)
    postfix(site)
    site.start("nats-server", "--addr", "0.0.0.0", "--port", NATS, port=NATS)
    open_to_all = ("--bind", "0.0.0.0", "--protected-mode", "no")
    site.start("redis-server", *open_to_all, "--port", REDIS, "--save", "", "--dir", site.own, port=REDIS)
    vsftpd(site)
    # One server on two ports: the same bytes on a port that protocols are guessed by, and on one that they are not.
    for odd, usual in ((MARIADB_ODD, MARIADB), (SMTP_ODD, SMTP)):
        site.start("socat", f"TCP-LISTEN:{odd},fork,reuseaddr,nodelay", f"TCP:127.0.0.1:{usual},nodelay", port=odd)


def owned_by(path, user):
    path.mkdir()
    shutil.chown(path, user)
    return path


def mariadb(site):
    data = owned_by(site.own / "mariadb", "mysql")
    # One that starts removes the temporary files of all in the same directory.
    temporary = {"TMPDIR": str(owned_by(site.own / "mariadb-tmp", "mysql"))}
    install = ("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db")
    site.run(*install, "--auth-root-authentication-method=normal", env=temporary, seconds=START_SECONDS)
    first = site.own / "mariadb.sql"
    first.write_text(
        "CREATE DATABASE shop;\nCREATE USER 'ann'@'%' IDENTIFIED BY 'secret';\nGRANT ALL ON shop.* TO 'ann'@'%';\n"
    )
    first.chmod(0o644)
    site.start(
        "mariadbd", "--no-defaults", "--user=mysql", f"--datadir={data}", f"--socket={data}/socket", f"--port={MARIADB}",
        "--bind-address=0.0.0.0", f"--init-file={first}", f"--ssl-cert={site.shared}/server.pem",
        f"--ssl-key={site.shared}/server.pem", "--innodb-buffer-pool-size=16M", "--max-allowed-packet=64M", "--skip-name-resolve",
        port=MARIADB, env=temporary,
    )


def postgres(site):
    binaries = sorted(glob.glob("/usr/lib/postgresql/*/bin"))[-1]
    data = owned_by(site.own / "postgres", "postgres")
    password = site.own / "password"
    password.write_text("secret\n")
    password.chmod(0o644)
    user = pwd.getpwnam("postgres").pw_uid
    as_user = ("setpriv", f"--reuid={user}", f"--regid={pwd.getpwnam('postgres').pw_gid}", "--clear-groups")
    initdb = (f"{binaries}/initdb", "--no-sync", "-U", "ann", "-A", "scram-sha-256", f"--pwfile={password}", "-D", data)
    site.run(*as_user, *initdb, env={"LC_ALL": "C.UTF-8"}, seconds=START_SECONDS)
    (data / "pg_hba.conf").write_text("host all all all scram-sha-256\n")
    key = data / "server.pem"
    key.write_bytes((site.shared / "server.pem").read_bytes())
    shutil.chown(key, "postgres")
    key.chmod(0o600)
    site.start(
        *as_user, f"{binaries}/postgres", "-D", data, "-p", POSTGRES, "-k", data, "-h", "0.0.0.0", "-c", "ssl=on",
        "-c", f"ssl_cert_file={key}", "-c", f"ssl_key_file={key}", "-c", "fsync=off", "-c", "shared_buffers=16MB", port=POSTGRES,
    )


def postfix(site):
    """Takes mail for anybody, and throws it away."""
    home = site.own / "postfix"
    home.mkdir()
    (home / "queue").mkdir()
    data = owned_by(home / "data", "postfix")
    shutil.copy("/etc/postfix/postfix-files", home)
    key = home / "server.pem"
    shutil.copy(site.shared / "server.pem", key)
    key.chmod(0o600)
    # Nothing in a chroot, and no other services than those that the mail takes.
    (home / "master.cf").write_text(
        f"{SMTP} inet n - n - - smtpd\n"
        "pickup unix n - n 60 1 pickup\n"
        "cleanup unix n - n - 0 cleanup\n"
        "qmgr unix n - n 300 1 qmgr\n"
        "rewrite unix - - n - - trivial-rewrite\n"
        "bounce unix - - n - 0 bounce\n"
        "defer unix - - n - 0 bounce\n"
        "trace unix - - n - 0 bounce\n"
        "discard unix - - n - - discard\n"
        "error unix - - n - - error\n"
        "tlsmgr unix - - n 1000? 1 tlsmgr\n"
        "anvil unix - - n - 1 anvil\n"
        "scache unix - - n - 1 scache\n"
        "postlog unix-dgram n - n - 1 postlogd\n"
    )
    settings = {
        "compatibility_level": "3.6",
        "queue_directory": home / "queue",
        "data_directory": data,
        "mail_owner": "postfix",
        "setgid_group": "postdrop",
        "maillog_file": "/dev/stdout",
        "inet_interfaces": "all",
        "inet_protocols": "ipv4",
        "myhostname": "mail.foreign",
        "mydestination": "mail.foreign",
        "mynetworks": "0.0.0.0/0",
        "local_transport": "discard:",
        "default_transport": "discard:",
        "relay_transport": "discard:",
        "local_recipient_maps": "",
        "alias_maps": "",
        "smtpd_tls_cert_file": key,
        "smtpd_tls_key_file": key,
        "smtpd_tls_security_level": "may",
        "smtpd_peername_lookup": "no",
        "smtpd_recipient_restrictions": "permit",
        "message_size_limit": "30000000",
        "import_environment": "MAIL_CONFIG MAIL_LOGTAG TZ LC_ALL",
    }
    (home / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in settings.items()))
    site.start("postfix", "-c", home, "start-fg", port=SMTP)


def vsftpd(site):
    """Anonymous users read and write."""
    root = site.own / "ftp"
    root.mkdir()
    root.chmod(0o555)
    upload = owned_by(root / "upload", "ftp")
    upload.chmod(0o755)
    shutil.copy(site.shared / "large", root / "large")
    (root / "empty").mkdir()
    configuration = site.own / "vsftpd.conf"
    configuration.write_text(
        f"listen=YES\nlisten_port={FTP}\nbackground=NO\nanonymous_enable=YES\nlocal_enable=NO\nanon_root={root}\n"
        "write_enable=YES\nanon_upload_enable=YES\n"
        "anon_other_write_enable=YES\nanon_umask=022\nno_anon_password=YES\npasv_enable=YES\n"
        f"secure_chroot_dir={root}/empty\nxferlog_enable=NO\nseccomp_sandbox=NO\nftpd_banner=welcome\nisolate_network=NO\n"
    )
    site.start("vsftpd", configuration, port=FTP)


# Greetings


def greeting(name, port, says, send=b""):
    """How long it takes until the server's first byte is here."""

    @case(f"{name}: first byte within 50 ms of direct")
    def first_byte(site):
        address = socket.gethostbyname(site.server)
        took = []
        for _ in range(GREETINGS):
            began = time.monotonic()
            with socket.create_connection((address, port), 15) as connection:
                connection.settimeout(15)
                connection.sendall(send)
                first = connection.recv(1000)
            took.append((time.monotonic() - began) * 1000)
            assert says in first, first
        return {"greeting_ms": round(statistics.quantiles(took, n=4)[0], 1)}


greeting("MariaDB", MARIADB, b"mysql_native_password")
greeting("MariaDB on another port", MARIADB_ODD, b"mysql_native_password")
greeting("Postfix", SMTP, b"220 ")
greeting("Postfix on another port", SMTP_ODD, b"220 ")
greeting("NATS", NATS, b"INFO {")
greeting("vsftpd", FTP, b"220 welcome")
# The client speaks first here: it asks for TLS, and gets one byte.
greeting("PostgreSQL's answer to SSLRequest", POSTGRES, b"S", send=b"\0\0\0\x08\x04\xd2\x16\x2f")
greeting("Redis' answer to PING", REDIS, b"+PONG", send=b"PING\r\n")


# MariaDB and PostgreSQL

TRANSACTION = """
CREATE TABLE {table} (id INT PRIMARY KEY, name VARCHAR(100), stock INT);
INSERT INTO {table} VALUES (1, 'tea', 10), (2, 'caf\u00e9', 5);
BEGIN; UPDATE {table} SET stock = stock - 3 WHERE id = 1; COMMIT;
BEGIN; UPDATE {table} SET stock = 0; ROLLBACK;
SELECT * FROM {table} ORDER BY id;
SELECT COUNT(*), SUM(stock) FROM {table};
DROP TABLE {table};
"""


def mariadb_client(site, sql, *options, port=MARIADB, **more):
    command = ("mariadb", "--no-defaults", f"--host={site.server}", f"--port={port}", "--user=ann", "--password=secret")
    return site.run(*command, "--batch", *options, "shop", stdin=sql.encode(), **more)


@case("MariaDB: transactions")
def mariadb_transactions(site):
    saw = mariadb_client(site, TRANSACTION.format(table="plain")).decode()
    assert "1\ttea\t7\n2\tcafé\t5\n" in saw and "2\t12\n" in saw, saw
    return saw


@case("MariaDB on another port: transactions")
def mariadb_odd(site):
    return mariadb_client(site, TRANSACTION.format(table="odd"), port=MARIADB_ODD).decode()


@case("MariaDB: TLS of its own, which begins after the greeting")
def mariadb_tls(site):
    tls = (f"--ssl-ca={site.shared}/ca.pem", "--ssl-verify-server-cert")
    saw = mariadb_client(site, "SHOW STATUS LIKE 'Ssl_version';" + TRANSACTION.format(table="tls"), *tls).decode()
    assert "TLSv1.3" in saw and "1\ttea\t7" in saw, saw
    return saw


@case("MariaDB: 8 MB in and out")
def mariadb_large(site):
    sql = f"CREATE TABLE large (content LONGBLOB); INSERT INTO large VALUES ('{'x' * 8_000_000}');"
    sql += "SELECT content FROM large; DROP TABLE large;"
    saw = mariadb_client(site, sql, "--skip-column-names", "--max-allowed-packet=64M")
    assert saw == b"x" * 8_000_000 + b"\n", len(saw)
    return len(saw)


@case("MariaDB: a wrong password, and a wrong query")
def mariadb_refuses(site):
    wrong = mariadb_client(site, "SELECT 1", "--password=guess", ok=False)
    bad = mariadb_client(site, "SELECT * FROM nothing", ok=False)
    assert b"Access denied" in wrong[2] and b"doesn't exist" in bad[2], (wrong, bad)
    # It names the client's address, which is a proxy's.
    return [wrong[0], re.sub(r"@'[^']+'", "@CLIENT", wrong[2].decode()), bad[0], bad[2].decode()]


def psql(site, sql, tls="disable", password="secret", **more):
    where = f"host={site.server} port={POSTGRES} user=ann password={password} dbname=postgres connect_timeout=15"
    where += f" sslmode={tls} sslrootcert={site.shared}/ca.pem"
    command = ("psql", "-X", "-q", "-A", "-v", "ON_ERROR_STOP=1", where)
    return site.run(*command, stdin=sql.encode(), env={"PGCLIENTENCODING": "UTF8"}, **more)


@case("PostgreSQL: transactions, SCRAM")
def postgres_transactions(site):
    saw = psql(site, TRANSACTION.format(table="plain")).decode()
    assert "1|tea|7\n2|café|5\n" in saw and "2|12\n" in saw, saw
    return saw


@case("PostgreSQL: TLS of its own, which begins after SSLRequest")
def postgres_tls(site):
    version = "SELECT version FROM pg_stat_ssl WHERE pid = pg_backend_pid();"
    saw = psql(site, version + TRANSACTION.format(table="tls"), "verify-full").decode()
    assert "TLSv1.3" in saw and "1|tea|7" in saw, saw
    return saw


@case("PostgreSQL: COPY of 100000 rows in and out")
def postgres_copy(site):
    rows = "".join(f"{i}\trow {i}\n" for i in range(100_000))
    saw = psql(site, f"CREATE TEMP TABLE t (id INT, name TEXT);\nCOPY t FROM STDIN;\n{rows}\\.\nCOPY t TO STDOUT;\n")
    assert saw == rows.encode(), saw[:200]
    return hashlib.sha256(saw).hexdigest()


@case("PostgreSQL: LISTEN and NOTIFY, and a cancelled query")
def postgres_notify(site):
    # psql cancels with a second connection when it is interrupted; a statement's timeout is the server's own doing.
    slow = psql(site, "SET statement_timeout = 300; SELECT pg_sleep(20);", ok=False)
    told = psql(site, "LISTEN news; NOTIFY news, 'it works';").decode()
    assert b"statement timeout" in slow[2] and 'notification "news" with payload "it works"' in told, (slow, told)
    return [slow[0], slow[2].decode(), re.sub(r"PID \d+", "PID", told)]


@case("PostgreSQL: a wrong password")
def postgres_refuses(site):
    wrong = psql(site, "SELECT 1", password="guess", ok=False)
    assert b"password authentication failed" in wrong[2], wrong
    return [wrong[0], site.plain(wrong[2].decode())]


# Mail


def send(site, port, size, tls):
    """What the server said to each step."""
    saw = []
    with smtplib.SMTP(site.server, port, local_hostname="client.foreign", timeout=20) as server:
        saw.append(server.ehlo())
        if tls:
            saw.append(server.starttls(context=ssl.create_default_context(cafile=site.shared / "ca.pem")))
            saw.append([server.sock.version(), server.ehlo()])
        saw += [server.mail("ann@example.org"), server.rcpt("bob@mail.foreign"), server.rcpt("nobody", [])]
        line = "It is all the same to me, but it has to be long.\r\n"
        code, said = server.data("Subject: hello\r\n\r\n" + line * (size // len(line)) + ".dots\r\n..\r\n")
        assert code == 250 and b"queued as" in said, (code, said)
        saw.append([code, re.sub(r"as \w+", "as ID", said.decode())])
        saw += [server.docmd("WHAT"), server.quit()]
    return site.plain(str(saw))


for name, port in (("Postfix", SMTP), ("Postfix on another port", SMTP_ODD)):
    case(f"{name}: a message")(lambda site, port=port: send(site, port, 1000, tls=False))
case("Postfix: STARTTLS and a message of 10 MB")(lambda site: send(site, SMTP, 10_000_000, tls=True))


@case("Postfix: ten messages at once, pipelined (its own smtp-source)")
def smtp_source(site):
    addresses = ("-f", "ann@foreign", "-t", "bob@mail.foreign")
    site.run("smtp-source", "-s", "5", "-m", "10", "-l", "5000", *addresses, f"{site.server}:{SMTP}")
    return "taken"


# NATS


def nats(site, talk):
    import nats as client

    async def connected():
        options = {"connect_timeout": 10, "allow_reconnect": False}
        connection = await client.connect(f"nats://{site.server}:{NATS}", **options)
        try:
            return await asyncio.wait_for(talk(connection), 20)
        finally:
            await connection.close()

    return asyncio.run(connected())


@case("NATS: 2000 messages, in order")
def nats_publish(site):
    async def talk(connection):
        subscription = await connection.subscribe("numbers.*")
        for i in range(2000):
            await connection.publish(f"numbers.{i % 3}", str(i).encode() + b" " * (i % 700))
        await connection.flush()
        return [int((await subscription.next_msg()).data) for _ in range(2000)] == list(range(2000))

    saw = nats(site, talk)
    assert saw, "not all of them, or not in order"
    return saw


@case("NATS: request and reply, and no responders")
def nats_request(site):
    async def talk(connection):
        async def answer(message):
            await message.respond(message.data[::-1])

        await connection.subscribe("reverse", cb=answer)
        reply = await connection.request("reverse", b"x" * 500_000 + b"y", timeout=10)
        try:
            await connection.request("nobody", b"", timeout=5)
        except Exception as error:  # pylint: disable=broad-except
            nobody = type(error).__name__
        return [reply.data[:2].decode(), len(reply.data), nobody]

    saw = nats(site, talk)
    assert saw == ["yx", 500_001, "NoRespondersError"], saw
    return saw


# Redis


def redis(site, *arguments, **options):
    return site.run("redis-cli", "-h", site.server, "-p", REDIS, *arguments, **options)


@case("Redis: values, a transaction, a script, an error")
def redis_values(site):
    orders = b"SET a 1\nINCRBY a 41\nMULTI\nINCR a\nRPUSH list x y z\nEXEC\nLRANGE list 0 -1\n"
    orders += b"EVAL 'return {KEYS[1], 7}' 1 key\nINCR list\nDEL a list\n"
    saw = redis(site, stdin=orders).decode()
    assert "42" in saw and "43" in saw and "WRONGTYPE" in saw, saw
    return saw


@case("Redis: 20000 commands in a pipe (--pipe)")
def redis_pipe(site):
    orders = b"".join(b"SET key:%d %s\r\n" % (i, b"v" * (i % 300 + 1)) for i in range(20_000))
    saw = redis(site, "--pipe", stdin=orders).decode()
    assert "errors: 0, replies: 20000" in saw, saw
    return saw


@case("Redis: a value of 16 MiB")
def redis_large(site):
    value = os.urandom(8 << 20).hex().encode()
    redis(site, "-x", "SET", "large", stdin=value)
    saw = redis(site, "GET", "large")
    assert saw == value + b"\n", len(saw)
    return len(saw)


@case("Redis: subscribed, and told at once")
def redis_subscribe(site):
    import redis as client

    with contextlib.closing(client.Redis(site.server, REDIS, socket_timeout=10)) as connection:
        subscription = connection.pubsub(ignore_subscribe_messages=True)
        subscription.subscribe("news")
        subscription.get_message(timeout=5)
        saw = []
        for i in range(5):
            connection.publish("news", f"number {i}")
            message = subscription.get_message(timeout=5)
            saw.append(message and message["data"].decode())
        assert saw == [f"number {i}" for i in range(5)], saw
        return saw


# FTP


@contextlib.contextmanager
def ftp(site):
    with ftplib.FTP(timeout=20) as client:
        client.connect(site.server, FTP)
        client.login()
        yield client


@case("vsftpd: list, retrieve and store, passive")
def ftp_passive(site):
    """Data connections go to a port that nobody knew of, and end by a half-close."""
    with ftp(site) as client:
        content = os.urandom(3_000_000)
        client.storbinary("STOR upload/new", io.BytesIO(content))
        got = io.BytesIO()
        client.retrbinary("RETR upload/new", got.write)
        assert got.getvalue() == content, len(got.getvalue())
        large = io.BytesIO()
        client.retrbinary("RETR large", large.write)
        assert large.getvalue() == (site.shared / "large").read_bytes(), len(large.getvalue())
        saw = [client.getwelcome(), sorted(client.nlst()), client.size("upload/new"), client.delete("upload/new"), client.pwd()]
        return [*saw, client.quit()]


@case("vsftpd: the address that PASV tells is the server's")
def ftp_pasv(site):
    with ftp(site) as client:
        saw = re.search(r"\d+,\d+,\d+,\d+", client.sendcmd("PASV"))[0].replace(",", ".")
        assert saw == socket.gethostbyname(site.server), f"it tells {saw}"
        return "the server's"


@case("vsftpd: EPSV, and lftp which believes PASV")
def ftp_lftp(site):
    checksum = hashlib.sha256((site.shared / "large").read_bytes()).hexdigest()
    copy = site.own / "copy"
    for settings in ("ftp:prefer-epsv true", "ftp:prefer-epsv false"):
        copy.unlink(missing_ok=True)
        orders = "set net:timeout 10; set net:max-retries 1; set ftp:ssl-allow false; set ftp:fix-pasv-address false;"
        orders += f"set {settings}; get large -o {copy}"
        site.run("lftp", "-c", f"open -u anonymous,x -p {FTP} {site.server}; {orders}")
        assert hashlib.sha256(copy.read_bytes()).hexdigest() == checksum
    return checksum
