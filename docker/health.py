"""Does this container's node answer? A TLS handshake that ends in HTTP/2, which gRPC speaks, on the port it listens on.

A stopped or hung process accepts connections too, in the kernel, but shakes no hands.
"""

import os
import socket
import ssl

TIMEOUT_S = 5.0
PORT = int(os.environ.get("P2PTRAIN_PORT", "7000"))

context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # who answers is not the question here
context.set_alpn_protocols(["h2"])
with socket.create_connection(("127.0.0.1", PORT), TIMEOUT_S) as plain, context.wrap_socket(plain) as secured:
    if secured.selected_alpn_protocol() != "h2":
        raise SystemExit("whatever listens there speaks no HTTP/2")
