"""Autobahn's fuzzing client or server, run unattended. CPython 2.7 only; `suite.py` starts it.

    wstest27.py cases                       print the ids of every case, as JSON
    wstest27.py server SPEC RESULTS         cases against the server at SPEC["url"]
    wstest27.py client SPEC RESULTS         a fuzzing server for clients, on 127.0.0.1

The `wstest` command that comes with Autobahn was made to be watched by a person: it listens on
every address, opens a web server besides, may wait for ever in a case, and loses all it has seen
when it is stopped. So its factories are used here directly:

  * RESULTS gets a line of JSON per case as it ends, whatever happens to the others;
  * a case that takes longer than SPEC["case_seconds"] has its connection aborted;
  * the fuzzing server takes a free port of the loopback address and prints it.
"""

from __future__ import print_function

import json
import sys

from autobahntestsuite import case as definitions
from autobahntestsuite.fuzzing import FuzzingClientFactory, FuzzingServerFactory
from twisted.internet import reactor

JUDGED_BY = ("id", "behavior", "behaviorClose", "remoteCloseCode", "duration")
# For a person who looks into a failure; `remoteCloseReason` often names the cause.
EXPLAINED_BY = ("result", "resultClose", "remoteCloseReason", "wasNotCleanReason")


def all_cases():
    return [cls.__name__[len("Case"):].replace("_", ".") for cls in definitions.Cases]


class Unattended(object):
    """What both factories lack: results that are kept, and an end to every case."""

    results = None
    case_seconds = 600

    def logCase(self, result):
        self.base.logCase(self, result)
        line = dict((key, result[key]) for key in JUDGED_BY + EXPLAINED_BY)
        self.results.write(json.dumps(line, sort_keys=True) + "\n")
        self.results.flush()

    def createReports(self, *ignored):
        """Not for each client that asks: `write_reports` does it once, at the end."""

    def buildProtocol(self, address):
        protocol = self.base.buildProtocol(self, address)
        alarm = reactor.callLater(
            self.case_seconds, lambda: protocol.transport and protocol.transport.abortConnection()
        )
        lost = protocol.connectionLost

        def connectionLost(reason):
            if alarm.active():
                alarm.cancel()
            lost(reason)

        protocol.connectionLost = connectionLost
        return protocol

    def write_reports(self):
        if self.agents:
            self.base.createReports(self, produceHtml=self.html)


class Client(Unattended, FuzzingClientFactory):
    base = FuzzingClientFactory


class Server(Unattended, FuzzingServerFactory):
    base = FuzzingServerFactory


def main(what, spec_path=None, results_path=None):
    if what == "cases":
        json.dump(all_cases(), sys.stdout)
        return
    with open(spec_path) as spec_file:
        spec = json.load(spec_file)
    Unattended.results = open(results_path, "w")
    Unattended.case_seconds = spec["case_seconds"]
    Unattended.html = spec["html"]
    if what == "server":
        spec["servers"] = [{"agent": spec["agent"], "url": spec["url"]}]
        factory = Client(spec)  # connects by itself
    else:
        spec["url"] = u"ws://127.0.0.1:1"
        factory = Server(spec)
        port = reactor.listenTCP(0, factory, interface="127.0.0.1").getHost().port
        # The port in the Host header is checked against this one.
        factory.setSessionParameters(url=u"ws://127.0.0.1:%d" % port)
        print("listening on port %d" % port)
    sys.stdout.flush()
    reactor.run()
    factory.write_reports()


if __name__ == "__main__":
    main(*sys.argv[1:])
