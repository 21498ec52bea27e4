"""A mail server that behaves as the recipient's address says: prints its port, then one line per message it took.

With `starttls` or `smtps`, an address to listen on, a certificate and its key as arguments it speaks TLS, and hears no
password and no message without. A line with the name of a step on standard input makes it say when that step is reached, and go no further with it.
"""

import asyncio
import json
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult

USER, PASSWORD = b"opentab", b"CANARYsmtp3d77"


class Handler:
    def __init__(self):
        self.tries = {}
        self.held = None

    async def reached(self, step):
        if self.held == step:
            self.held = None
            print(json.dumps({"step": step}), flush=True)
            # Whoever waits for an answer is dead before.
            await asyncio.sleep(60)

    async def handle_RCPT(self, server, session, envelope, address, options):
        await self.reached("rcpt")
        name = address.split("@")[0]
        self.tries[address] = self.tries.get(address, 0) + 1
        if name.startswith("never"):
            return "550 5.1.1 no such user"
        if name.startswith("later") and self.tries[address] <= 2:
            return "451 4.7.1 greylisted"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):
        name = envelope.rcpt_tos[0].split("@")[0]
        if name.startswith("full") and self.tries[envelope.rcpt_tos[0]] <= 1:
            return "452 4.3.1 no room"
        if name.startswith("unwanted"):
            return "554 5.7.1 not wanted"
        text = envelope.content.decode()
        tls = server.transport.get_extra_info("ssl_object") is not None
        said = {"to": envelope.rcpt_tos[0], "from": envelope.mail_from, "text": text, "tls": tls}
        print(json.dumps(said), flush=True)
        await self.reached("taken")
        if name.startswith("silent"):
            await asyncio.sleep(60)
        if name.startswith("drop"):
            server.transport.abort()
        return "250 OK"


class Session(SMTP):
    """Says what it is asked for before it answers."""

    async def _handle_client(self):
        await self.event_handler.reached("connect")
        await super()._handle_client()

    async def smtp_EHLO(self, hostname):
        await self.event_handler.reached("ehlo")
        await super().smtp_EHLO(hostname)

    async def smtp_AUTH(self, arg):
        await self.event_handler.reached("auth")
        await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg):
        await self.event_handler.reached("mail")
        await super().smtp_MAIL(arg)

    async def smtp_DATA(self, arg):
        await self.event_handler.reached("data")
        await super().smtp_DATA(arg)

    async def smtp_QUIT(self, arg):
        await self.event_handler.reached("quit")
        await super().smtp_QUIT(arg)


def check(server, session, envelope, mechanism, login):
    return AuthResult(success=login.login == USER and login.password == PASSWORD, handled=False)


async def main():
    loop = asyncio.get_running_loop()
    handler = Handler()

    mode, host = sys.argv[1:3] or ("plain", "127.0.0.1")
    context = None
    if mode != "plain":
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sys.argv[3], sys.argv[4])
    upgrade = {"tls_context": context, "require_starttls": True} if mode == "starttls" else {}
    auth = {"auth_required": True, "auth_require_tls": bool(upgrade), "authenticator": check}

    def session():
        return Session(handler, hostname="mail.test", **auth, **upgrade)

    server = await loop.create_server(session, host, 0, ssl=context if mode == "smtps" else None)
    print(server.sockets[0].getsockname()[1], flush=True)
    # Until whoever started it is gone.
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        handler.held = line.strip()


asyncio.run(main())
