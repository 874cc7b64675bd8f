"""Does with the window of examples/tk_window.py what a person does, and prints what there is to see.

python tests/tk_person.py URL WORD ...
"""

from __future__ import annotations

import sys
import time
import tkinter as tk

from programs import EXAMPLES

sys.path.insert(0, str(EXAMPLES))

from tk_window import Window


class Person:
    def __init__(self, url: str) -> None:
        self.window = Window(tk.Tk(), url)
        # A fast answer may be there to be seen already.
        self.has_seen: tuple[str, ...] = ("connecting",)

    def sees(self) -> tuple[str, ...]:
        """What the label says, and the messages above the entry."""
        return str(self.window.status["text"]), *self.window.messages.get(0, "end")

    def types(self, word: str) -> None:
        entry = self.window.entry
        entry.focus_force()
        for key in word:
            entry.event_generate("<KeyPress>", keysym=key)
        entry.event_generate("<Return>")

    def waits(self) -> None:
        """Until there is something else to see than the last time."""
        self.window.root.update()
        while self.sees() == self.has_seen:
            time.sleep(0.005)
            self.window.root.update()
        self.has_seen = self.sees()
        print(self.has_seen)  # noqa: T201 - a program


def main(url: str, *words: str) -> None:
    person = Person(url)
    person.waits()
    for word in words:
        gets_an_answer = person.window.client.is_open
        person.types(word)
        if gets_an_answer:
            person.waits()
    print("in the entry:", repr(person.window.entry.get()))  # noqa: T201 - a program
    person.window.client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
