"""What a dataset's source asks of those who use it: terms, licence, and the paper to cite."""

from collections.abc import Sequence
from dataclasses import dataclass

DMLANET = """@article{yadav2020dmlanet,
  title = {A Deep Multi-Level Attentive network for Multimodal Sentiment Analysis},
  author = {Yadav, Ashima and Vishwakarma, Dinesh Kumar},
  journal = {arXiv preprint arXiv:2012.08256},
  year = {2020}
}"""

MVSA = """@inproceedings{niu2016mvsa,
  title = {Sentiment Analysis on Multi-View Social Data},
  author = {Niu, Teng and Zhu, Shiai and Pang, Lei and El Saddik, Abdulmotaleb},
  booktitle = {MultiMedia Modeling},
  year = {2016},
  doi = {10.1007/978-3-319-27674-8_2}
}"""


@dataclass(frozen=True, slots=True)
class Terms:
    """`text` for people; `url` is where the source says it itself, if it does; `citation` is BibTeX."""

    text: str = ""
    url: str = ""
    citation: str = DMLANET

    @property
    def license(self) -> str:
        """The address of the terms, else the terms."""
        return self.url or " ".join(self.text.split()) or "unknown"


_TERMS = {
    "mvsa": Terms(
        """Texts and pictures are tweets of MVSA and belong to their authors. MVSA is given out for
research: ask its authors for a copy instead of passing this one on, and delete what a tweet's author
deletes.""",
        citation=MVSA,
    ),
    "flickr": Terms(
        """This product uses the Flickr API but is not endorsed or certified by SmugMug, Inc. Each
picture keeps its owner's licence, given in the column `license`; remove what its owner removes, as
`mvsent refresh` does.""",
        "https://www.flickr.com/help/terms/api",
    ),
    "getty": Terms(
        """Pictures and captions belong to Getty Images and its contributors. Its licence restricts
machine-learning use: read your agreement before you train on them, and do not pass them on. Pictures may
carry a watermark. Unless a lexicon was given, the keywords are not the paper's but a reconstruction.""",
        "https://www.gettyimages.com/eula",
    ),
}


def terms_of(name: str) -> Terms:
    """The terms of the dataset called `name`, by the source that the name begins with.

    >>> terms_of("flickr-2020").license, terms_of("my-own").license
    ('https://www.flickr.com/help/terms/api', 'unknown')
    """
    return next((terms for source, terms in _TERMS.items() if name.startswith(source)), Terms())


def joint_terms(names: Sequence[str]) -> Terms:
    """The terms of a dataset that was made of those called `names`: all of theirs hold.

    >>> joint_terms(["mvsa-single", "mvsa-multiple"]) == terms_of("mvsa")
    True
    >>> joint_terms(["flickr", "getty"]).url
    ''
    """
    found = list(dict.fromkeys(map(terms_of, names)))
    if len(found) == 1:
        return found[0]
    citations = dict.fromkeys(terms.citation for terms in found)
    text = "\n\n".join(terms.text for terms in found if terms.text)
    return Terms(text, citation="\n\n".join(citations))
