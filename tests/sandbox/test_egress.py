"""The way out of an isolated task: what is listed works, the rest does not, and all of it is in the log."""

from __future__ import annotations

import http.server
import os
import threading
from collections.abc import Iterator

import pytest

from sandbox.bwrap import needs_bubblewrap
from sandbox.conftest import Start
from sandbox.controlplane import ControlPlane, DaemonProcess, eventually, make, shell

pytestmark = needs_bubblewrap


class Service(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(f"{self.command} {self.path} {self.headers['Host']} {self.headers['Proxy-Connection']}".encode())

    def do_POST(self) -> None:
        if self.headers["Transfer-Encoding"] == "chunked":
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"got %d" % len(body))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def service() -> Iterator[int]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def plane(service: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    plane = ControlPlane()
    plane.start()
    allow = [f"127.0.0.1:{service}", "*", f"*.localhost:{service}", "localhost:9"]
    isolation = {"kind": "bubblewrap", "networkAllow": allow}
    daemon = DaemonProcess(plane, tmp_path_factory.mktemp("sandbox"), isolation)
    daemon.start()
    yield plane
    daemon.stop()
    plane.stop()


def network(plane: ControlPlane, line: str) -> tuple[str, list[str]]:
    """The output of a shell line in a task, and what its log says of the network."""
    assignment = make(shell(line))
    plane.offer(assignment)
    text = plane.result(assignment.assignment_id).text
    said = [each for each in plane.text(assignment.assignment_id, "system") if each.startswith("network: ")]
    return text, said


CURL = "curl -sS --noproxy '' --max-time 10"


def test_http_goes_through_and_is_logged(plane: ControlPlane, service: int) -> None:
    text, said = network(plane, f"{CURL} -H 'Host: other.example' 'http://127.0.0.1:{service}/a?b=c'")
    assert text == f"GET /a?b=c 127.0.0.1:{service} None"
    assert said == [f"network: GET 127.0.0.1:{service}: allowed"]


def test_bodies_go_through_whole(plane: ControlPlane, service: int) -> None:
    line = f"""
    head -c 3000000 /dev/zero > body
    {CURL} --data-binary @body http://127.0.0.1:{service}/; echo
    {CURL} -H 'Transfer-Encoding: chunked' -H 'Expect:' --data-binary @body http://127.0.0.1:{service}/
    """
    text, said = network(plane, line)
    assert text.split("\n") == ["got 3000000", "got 3000000"]
    assert len(said) == 2


def test_connect_goes_through_and_is_logged(plane: ControlPlane, service: int) -> None:
    text, said = network(plane, f"{CURL} --proxytunnel http://127.0.0.1:{service}/tunnel")
    assert text.startswith("GET /tunnel")
    assert said == [f"network: CONNECT 127.0.0.1:{service}: allowed"]


def test_the_usual_clients_find_the_proxy(plane: ControlPlane, service: int) -> None:
    program = f"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{service}/p').read().decode())"
    text, said = network(plane, f'python3 -c "{program}"; curl -sS http://127.0.0.1:{service}/c')
    assert text.split("\n")[0].startswith("GET /p")
    assert text.split("\n")[1].startswith("GET /c")
    assert len(said) == 2


def test_what_is_not_listed_is_refused_with_the_reason(plane: ControlPlane, service: int) -> None:
    line = f"{CURL} http://127.0.0.1:{plane.port}/v1; {CURL} --proxytunnel http://127.0.0.1:{plane.port}/ 2>&1; true"
    text, said = network(plane, line)
    assert "not in the pool's network.allow" in text
    where = f"127.0.0.1:{plane.port}: refused: not in the pool's network.allow"
    assert said == [f"network: GET {where}", f"network: CONNECT {where}"]


def test_a_name_cannot_lead_to_this_machine(plane: ControlPlane, service: int) -> None:
    """`*` lets every name through, and names are anybody's: none of them may mean our loopback."""
    line = f"{CURL} http://localhost/ http://127.0.0.2/ http://[::1]/ http://169.254.169.254/latest; true"
    text, said = network(plane, line)
    assert text.count("its address is this machine's") == 4
    assert all("refused" in each for each in said)


def test_one_connection_carries_one_request(plane: ControlPlane, service: int) -> None:
    """A second request behind the first would go out unseen."""
    program = f"""
import socket
s = socket.create_connection(('127.0.0.1', 3128))
first = b'GET http://127.0.0.1:{service}/1 HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n'
s.sendall(first + first.replace(b'/1', b'/2'))
data = b''
while part := s.recv(65536):
    data += part
print(data.count(b'GET /1'), data.count(b'GET /2'))
"""
    text, said = network(plane, f"cat > p.py <<'END'\n{program}\nEND\npython3 p.py")
    assert text == "1 0"
    assert len(said) == 1


@pytest.mark.parametrize(
    "head",
    [
        "GET / HTTP/1.1",
        "GET https://127.0.0.1/ HTTP/1.1",
        "CONNECT 127.0.0.1 HTTP/1.1",
        "CONNECT :80 HTTP/1.1",
        "GET http://127.0.0.1:SERVICE/ SMTP",
        "POST http://127.0.0.1:SERVICE/ HTTP/1.1\\r\\nContent-Length: 3\\r\\nTransfer-Encoding: chunked",
        "POST http://127.0.0.1:SERVICE/ HTTP/1.1\\r\\nContent-Length: 3\\r\\nContent-Length: 4",
        "GET http://127.0.0.1:SERVICE/ HTTP/1.1\\r\\nna me: x",
        "nonsense",
    ],
)
def test_what_two_readers_could_read_differently_is_refused(
    plane: ControlPlane, service: int, head: str
) -> None:
    send = f"printf '%b' '{head.replace('SERVICE', str(service))}\\r\\n\\r\\n'"
    line = f"{send} | python3 -c \"import socket,sys; s=socket.create_connection(('127.0.0.1',3128)); s.sendall(sys.stdin.buffer.read()); print(s.recv(100).decode().split()[1])\""
    text, said = network(plane, line)
    assert text == "400"
    assert "refused" in said[0]


def test_nothing_else_leads_out(plane: ControlPlane, service: int) -> None:
    line = f"curl -sS --noproxy '*' --max-time 5 http://127.0.0.1:{service}/ 2>&1; getent hosts example.com; ls /sys 2>&1; true"
    text, said = network(plane, line)
    assert "onnect" in text.split("\n")[0]
    assert "GET" not in text
    assert said == []


def test_processes_one_after_the_other_each_have_it(plane: ControlPlane, service: int) -> None:
    """`verify` commands too: each has namespaces of its own."""
    check = f"{CURL} http://127.0.0.1:{service}/v"
    assignment = make(shell(f"{CURL} http://127.0.0.1:{service}/m", verify=[check, check]))
    plane.offer(assignment)
    result = plane.result(assignment.assignment_id)
    assert [each.passed for each in result.evidence] == [True, True]


def test_the_daemon_lets_go_of_everything(own: Start, service: int) -> None:
    plane, daemon = own(
        isolation={"kind": "bubblewrap", "networkAllow": [f"127.0.0.1:{service}"]}
    )

    def open_files() -> int:
        return len(os.listdir(f"/proc/{daemon.pid}/fd"))

    plane.run(shell(f"{CURL} http://127.0.0.1:{service}/"))
    plane.run(shell("true"))
    before = open_files()
    for _ in range(5):
        plane.run(shell(f"{CURL} http://127.0.0.1:{service}/ & {CURL} http://127.0.0.1:{service}/; wait"))
    plane.run(shell("true"))
    eventually(lambda: open_files() <= before + 2, "connections to be closed")
