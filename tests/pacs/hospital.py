"""A small hospital on this machine: a network of its own, a real Orthanc in it, scanners, and our watcher.

The network is a namespace of the kernel with nothing but a loopback device, since Debian's Orthanc listens on every
address. It needs Debian's orthanc, orthanc-dicomweb and dcmtk, and the right to make namespaces.
"""

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PLUGIN: Final = "/usr/share/orthanc/plugins/libOrthancDicomWeb.so"
URL: Final = "http://127.0.0.1:8042"
USER, PASSWORD = "watcher", "correct horse"
PROGRAMS: Final = ("Orthanc", "storescu", "unshare", "nsenter", "setpriv", "ip")
SEARCH: Final = "/usr/sbin:/sbin:/usr/bin:/bin"
ASK: Final = """
import base64, sys, urllib.request
url, user, body = sys.argv[1:]
request = urllib.request.Request(url, body.encode() or None)
request.add_header("Authorization", "Basic " + base64.b64encode(user.encode()).decode())
sys.stdout.write(urllib.request.urlopen(request, timeout=60).read().decode())
"""
WATCH: Final = """
import logging, sys
from pathlib import Path
logging.basicConfig(level=logging.DEBUG)
logging.captureWarnings(True)
from braintumor.pacs.watch import watch
from braintumor.models.registry import load
url, state, *once = sys.argv[1:]
print(watch(url, load("cnn"), Path(state), once=bool(once), say=lambda line: print(line, flush=True)), flush=True)
"""


def missing() -> str:
    """Return why there can be no hospital here; nothing if there can."""
    lacking = [name for name in PROGRAMS if not shutil.which(name, path=SEARCH)]
    if lacking or not Path(PLUGIN).exists():
        return f"needs Debian's orthanc, orthanc-dicomweb, dcmtk, iproute2 ({', '.join(lacking) or 'no plug-in'})"
    if subprocess.run(["unshare", "--map-root-user", "--net", "true"], capture_output=True, check=False).returncode:
        return "needs the right to make a network namespace"
    return ""


class Hospital:
    """The network and the Orthanc in it, which keeps its images in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.settings: dict[str, Any] = {
            "Name": "hospital",
            "StorageDirectory": str(folder / "archive"),
            "IndexDirectory": str(folder / "archive"),
            "Plugins": [PLUGIN],
            "HttpPort": 8042,
            "DicomPort": 4242,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": True,
            "RegisteredUsers": {USER: PASSWORD},
            "DicomAlwaysAllowStore": True,
            "StableAge": 1,
            "DicomWeb": {"Enable": True, "Root": "/dicom-web/"},
        }
        folder.mkdir(parents=True, exist_ok=True)
        # ends with us, since its input is our pipe
        self._network = subprocess.Popen(
            ["unshare", "--map-root-user", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PATH": SEARCH},
        )
        assert self._network.stdout
        assert self._network.stdout.readline() == b"up\n"
        self.orthanc: subprocess.Popen[bytes] | None = None

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs in the network; it is killed when we end."""
        enter = ["nsenter", "--target", str(self._network.pid), "--user", "--net", "--preserve-credentials"]
        return [*enter, "setpriv", "--pdeathsig", "KILL", "--", *command]

    def open(self) -> None:
        """Start Orthanc and wait until it answers."""
        file = self.folder / "orthanc.json"
        file.write_text(json.dumps(self.settings))
        Path(self.settings["StorageDirectory"]).mkdir(exist_ok=True)
        with (self.folder / "orthanc.log").open("ab") as log:
            command = self.inside("/usr/sbin/Orthanc", str(file))
            self.orthanc = subprocess.Popen(command, stdout=log, stderr=log, cwd=self.folder)
        for _ in range(200):
            with suppress(subprocess.CalledProcessError):
                self.ask("/system")
                return
            assert self.orthanc.poll() is None, (self.folder / "orthanc.log").read_text()[-2000:]
            time.sleep(0.05)
        raise AssertionError("Orthanc does not answer")

    def close(self, number: int = signal.SIGTERM) -> None:
        """End Orthanc and wait until it has ended: a new one could not open its database before."""
        if self.orthanc:
            self.orthanc.send_signal(number)
            self.orthanc.wait()
            self.orthanc = None

    def leave(self) -> None:
        """End everything."""
        self.close(signal.SIGKILL)
        self._network.communicate()

    def ask(self, path: str, body: object = None) -> Any:
        """Return what Orthanc answers."""
        text = "" if body is None else json.dumps(body)
        command = self.inside(sys.executable, "-I", "-c", ASK, URL + path, f"{USER}:{PASSWORD}", text)
        reply = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return json.loads(reply or "null")

    def send(self, *paths: Path) -> None:
        """Send files or folders as a scanner does, by C-STORE."""
        command = self.inside("storescu", "+sd", "+r", "-aec", "ORTHANC", "127.0.0.1", "4242", *map(str, paths))
        subprocess.run(command, check=True, capture_output=True)

    def cut(self) -> None:
        """Cut the network: packets are lost, connections stay open."""
        subprocess.run(self.inside("ip", "link", "set", "lo", "down"), check=True)

    def mend(self) -> None:
        """Undo `cut`."""
        subprocess.run(self.inside("ip", "link", "set", "lo", "up"), check=True)

    def watcher(self, state: Path, log: Path, url: str = URL, *, once: bool = False) -> subprocess.Popen[bytes]:
        """Start our watcher, with logging at its most talkative; what it prints and logs is added to a file."""
        command = self.inside(sys.executable, "-c", WATCH, url, str(state), *(["once"] if once else []))
        secrets = {"BRAINTUMOR_PACS_USER": USER, "BRAINTUMOR_PACS_PASSWORD": PASSWORD}
        environment = {"PATH": SEARCH, "TMPDIR": str(self.folder), "OMP_NUM_THREADS": "1", **secrets}
        with log.open("ab") as file:
            return subprocess.Popen(command, stdout=file, stderr=file, env=environment)

    def census(self) -> "Census":
        """Return what is in the archive."""
        instances = []
        for study in self.ask("/studies"):
            instances += self.ask(f"/studies/{study}/instances-tags?simplify").values()
        return Census(instances)


def storm(hospital: Hospital, state: Path, log: Path, parts: Sequence[Path], longest_cut: float = 7.0) -> Counter[str]:
    """Send folders of images, and kill our watcher over each; every fourth time Orthanc or the network goes first.

    The moments are drawn from a fixed seed. Cuts last up to 7 seconds, longer than a connection is waited for. At the
    end the watcher answers what is left. Returns how often each thing was done, and how often the watcher was killed
    "at work", with images that it had not answered.
    """
    choice = random.Random(0)
    done: Counter[str] = Counter()
    for kill, part in enumerate(parts):
        logged = log.stat().st_size if log.exists() else 0
        watcher = hospital.watcher(state, log)
        while b"following" not in log.read_bytes()[logged:]:
            assert watcher.poll() is None, "the watcher has ended by itself"
            time.sleep(0.02)
        sent = [*sorted(part.iterdir())]
        hospital.send(*sent)
        time.sleep(choice.uniform(0.0, 0.5))
        if kill % 4 == 1:
            hospital.cut()
            time.sleep(choice.uniform(0.2, longest_cut))
            hospital.mend()
            time.sleep(choice.uniform(0.0, 2.0))
            done["cuts"] += 1
        elif kill % 4 == 3:
            hospital.close(signal.SIGKILL)
            time.sleep(choice.uniform(0.0, 1.0))
            hospital.open()
            time.sleep(choice.uniform(0.0, 2.0))
            done["archive killed"] += 1
        assert watcher.poll() is None, "the watcher has ended by itself"
        watcher.kill()
        watcher.wait()
        done["watcher killed"] += 1
        done["images"] += len(sent)
        done["at work"] += hospital.ask("/statistics")["CountInstances"] < done["images"] * (1 + KINDS)
    assert hospital.watcher(state, log, once=True).wait(300) == 0
    return done


class Census:
    """The instances of an archive.

    Attributes:
        sources: SOP Instance UIDs of the images that are no results.
        results: the attributes of the results.
        sets: for each source the SOP Class UIDs of the results that refer to it.
    """

    def __init__(self, instances: Sequence[dict[str, Any]]) -> None:
        self.results = [instance for instance in instances if instance.get("Manufacturer") == "braintumor"]
        self.sources = [instance for instance in instances if instance.get("Manufacturer") != "braintumor"]
        self.sets: dict[str, Counter[str]] = {instance["SOPInstanceUID"]: Counter() for instance in self.sources}
        for result in self.results:
            for source in set(references(result)) & set(self.sets):
                self.sets[source][result["SOPClassUID"]] += 1

    @property
    def lost(self) -> int:
        """How many sources lack a result."""
        return sum(len(kinds) < KINDS for kinds in self.sets.values())

    @property
    def doubled(self) -> int:
        """How many sources have a result of the same kind twice."""
        return sum(max(kinds.values(), default=0) > 1 for kinds in self.sets.values())


KINDS: Final = 3  # secondary capture, parametric map, report


def references(value: Any) -> Iterator[str]:
    """Yield every SOP Instance UID that a dataset refers to, at any depth."""
    if isinstance(value, dict):
        if "ReferencedSOPInstanceUID" in value:
            yield value["ReferencedSOPInstanceUID"]
        for element in value.values():
            yield from references(element)
    elif isinstance(value, list):
        for element in value:
            yield from references(element)
