"""The copying problem."""

from dataclasses import dataclass
from typing import Annotated

import torch

from dlopt import prng
from dlopt.data import _drawn
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count, Range


@dataclass(frozen=True)
class Copying(Data):
    """The copying problem: a word is to be remembered over many blanks and then written.

    With a word of K letters out of S and a delay of T, a sequence has T + 2K steps:

        inputs    the word, T - 1 blanks, the delimiter, K blanks
        targets   T + K blanks, the word

    There is a target for each step. Inputs are tokens: 0 is padding, which does not occur, 1 to S are the letters, then
    the blank and the delimiter. Of the S + 1 classes the last is the blank. A network without memory writes blanks, and
    then guesses: its cross-entropy is K log(S) / (T + 2K) nats per step. The sequences are the same for every seed.

    delay       T, the number of steps from the end of the word to its copy
    word        K, the number of letters to remember
    letters     S, the number of different letters
    size        number of training examples, of which some validate
    test_size   number of test examples
    path        has no effect: must be null

    Source: Arjovsky, Shah and Bengio 2016, Unitary evolution recurrent neural networks, section 5.1, with K = 10 and
    S = 8; after Hochreiter and Schmidhuber 1997.
    """

    delay: Count
    word: Count
    letters: Annotated[int, Range(ge=2)]
    size: Count
    test_size: Count

    def load(self) -> Dataset:
        memory = 32 * (self.delay + 2 * self.word)
        classes, tokens = self.letters + 1, self.letters + 3
        return _drawn.load_drawn(self, (self.size, self.test_size), memory, self.draw, outputs=classes, tokens=tokens)

    def draw(self, key: prng.Key, count: int) -> Split:
        blank = self.letters
        word = (prng.uniform(key, (count, self.word)).double() * self.letters).long()
        symbols = torch.full((count, self.delay + 2 * self.word), blank)
        targets = symbols.clone()
        symbols[:, : self.word] = targets[:, -self.word :] = word
        symbols[:, self.word + self.delay - 1] = blank + 1
        return Split(symbols + 1, targets)  # the token 0 is padding
