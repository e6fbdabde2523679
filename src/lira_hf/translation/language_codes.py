"""One table of language codes: BCP 47 tags and what NLLB, M2M100 and MADLAD-400 call the same languages (ours)."""

import re
from functools import lru_cache
from typing import NamedTuple

from babel.core import get_global


__all__ = ["LANGUAGE_CODES", "LanguageCodes", "is_english", "is_undetermined", "language_key", "model_code"]

_TAG = re.compile(r"([A-Za-z]{2,3})(?:[-_]([A-Za-z]{4}))?(?:[-_]([A-Za-z]{2}|\d{3}))?(?:[-_.].*)?")
# "The language is not known", "several", "not coded" and "no language at all" in BCP 47.
_UNDETERMINED = ("", "und", "mul", "mis", "zxx", "root")

# Tag, NLLB (FLORES-200), M2M100, MADLAD-400; "-": that family lacks it. Tags are CLDR's canonical ones; one without a
# script means the language's usual script. After English come the languages of the paper.
_TABLE = """
en       eng_Latn  en   en
vi       vie_Latn  vi   vi
th       tha_Thai  th   th
id       ind_Latn  id   id
ms       zsm_Latn  ms   ms
ur       urd_Arab  ur   ur
bn       ben_Beng  bn   bn
fil      tgl_Latn  tl   fil
af       afr_Latn  af   af
am       amh_Ethi  am   am
ar       arb_Arab  ar   ar
as       asm_Beng  -    as
ast      ast_Latn  ast  -
az       azj_Latn  az   az
ba       bak_Cyrl  ba   ba
be       bel_Cyrl  be   be
bg       bul_Cyrl  bg   bg
bho      bho_Deva  -    bho
bo       bod_Tibt  -    bo
br       -         br   br
bs       bos_Latn  bs   bs
ca       cat_Latn  ca   ca
ceb      ceb_Latn  ceb  ceb
ckb      ckb_Arab  -    ckb
cs       ces_Latn  cs   cs
cy       cym_Latn  cy   cy
da       dan_Latn  da   da
de       deu_Latn  de   de
el       ell_Grek  el   el
eo       epo_Latn  -    eo
es       spa_Latn  es   es
et       est_Latn  et   et
eu       eus_Latn  -    eu
fa       pes_Arab  fa   fa
ff       fuv_Latn  ff   ff
fi       fin_Latn  fi   fi
fr       fra_Latn  fr   fr
fy       -         fy   fy
ga       gle_Latn  ga   ga
gd       gla_Latn  gd   gd
gl       glg_Latn  gl   gl
gn       grn_Latn  -    gn
gu       guj_Gujr  gu   gu
ha       hau_Latn  ha   ha
he       heb_Hebr  he   iw
hi       hin_Deva  hi   hi
hr       hrv_Latn  hr   hr
ht       hat_Latn  ht   ht
hu       hun_Latn  hu   hu
hy       hye_Armn  hy   hy
ig       ibo_Latn  ig   ig
ilo      ilo_Latn  ilo  ilo
is       isl_Latn  is   is
it       ita_Latn  it   it
ja       jpn_Jpan  ja   ja
jv       jav_Latn  jv   jv
ka       kat_Geor  ka   ka
kk       kaz_Cyrl  kk   kk
km       khm_Khmr  km   km
kn       kan_Knda  kn   kn
ko       kor_Hang  ko   ko
ku       kmr_Latn  -    ku
ky       kir_Cyrl  -    ky
lb       ltz_Latn  lb   lb
lg       lug_Latn  lg   lg
ln       lin_Latn  ln   ln
lo       lao_Laoo  lo   lo
lt       lit_Latn  lt   lt
lv       lvs_Latn  lv   lv
mai      mai_Deva  -    mai
mg       plt_Latn  mg   mg
mi       mri_Latn  -    mi
mk       mkd_Cyrl  mk   mk
ml       mal_Mlym  ml   ml
mn       khk_Cyrl  mn   mn
mr       mar_Deva  mr   mr
mt       mlt_Latn  -    mt
my       mya_Mymr  my   my
nb       nob_Latn  no   no
ne       npi_Deva  ne   ne
nl       nld_Latn  nl   nl
nn       nno_Latn  -    -
no       nob_Latn  no   no
nso      nso_Latn  ns   nso
ny       nya_Latn  -    ny
oc       oci_Latn  oc   oc
om       gaz_Latn  -    om
or       ory_Orya  or   or
pa       pan_Guru  pa   pa
pl       pol_Latn  pl   pl
ps       pbt_Arab  ps   ps
pt       por_Latn  pt   pt
qu       quy_Latn  -    qu
ro       ron_Latn  ro   ro
ru       rus_Cyrl  ru   ru
rw       kin_Latn  -    rw
sa       san_Deva  -    sa
sd       snd_Arab  sd   sd
si       sin_Sinh  si   si
sk       slk_Latn  sk   sk
sl       slv_Latn  sl   sl
sm       smo_Latn  -    sm
sn       sna_Latn  -    sn
so       som_Latn  so   so
sq       als_Latn  sq   sq
sr       srp_Cyrl  sr   sr
ss       ssw_Latn  ss   ss
st       sot_Latn  -    st
su       sun_Latn  su   su
sv       swe_Latn  sv   sv
sw       swh_Latn  sw   sw
ta       tam_Taml  ta   ta
te       tel_Telu  -    te
tg       tgk_Cyrl  -    tg
ti       tir_Ethi  -    ti
tk       tuk_Latn  -    tk
tn       tsn_Latn  tn   tn
tr       tur_Latn  tr   tr
ts       tso_Latn  -    ts
tt       tat_Cyrl  -    tt
ug       uig_Arab  -    ug
uk       ukr_Cyrl  uk   uk
uz       uzn_Latn  uz   uz
war      war_Latn  -    war
wo       wol_Latn  wo   wo
xh       xho_Latn  xh   xh
yi       ydd_Hebr  yi   yi
yo       yor_Latn  yo   yo
yue      yue_Hant  -    yue
zh       zho_Hans  zh   zh
zh-Hant  zho_Hant  zh   zh
zu       zul_Latn  zu   zu
"""


class LanguageCodes(NamedTuple):
    """
    What each family of translators calls one language.

    Args:
        nllb (`str`, *optional*): FLORES-200 code, such as `"urd_Arab"`; `None` where the family lacks the language.
        m2m100 (`str`, *optional*): M2M100's code, such as `"tl"`.
        madlad (`str`, *optional*): MADLAD-400's code, as in its token `"<2iw>"`.
    """

    nllb: str | None
    m2m100: str | None
    madlad: str | None


LANGUAGE_CODES: dict[str, LanguageCodes] = {
    tag: LanguageCodes(*(None if code == "-" else code for code in codes))
    for tag, *codes in (line.split() for line in _TABLE.strip().splitlines())
}
"""BCP 47 tag -> the families' codes."""


def is_undetermined(tag: str) -> bool:
    """Whether a tag says that the language is not known (`"und"`), mixed, or none."""
    return tag.strip().lower() in _UNDETERMINED


def is_english(tag: str) -> bool:
    """Whether a tag is that of English of any country: `"en"`, `"en-GB"`, `"eng"`, `"eng_Latn"`."""
    return _split(tag) == ("en", "Latn")


def language_key(tag: str) -> str:
    """
    Language and script, by which two spellings of one language compare equal; the territory doesn't count.

    `"ur"`, `"urd"`, `"ur_PK"` and `"urd_Arab"` give `"ur-Arab"`; `"tl"` gives `"fil-Latn"`, `"zh-TW"` `"zh-Hant"`.

    Args:
        tag (`str`): A language tag in BCP 47, POSIX, ISO 639-3 or FLORES spelling.

    Returns:
        `str`: The key; the tag itself, in lower case, where it is no language tag.
    """
    parts = _split(tag)
    return "-".join(parts) if parts else tag.strip().lower()


def model_code(tag: str, family: str) -> str | None:
    """
    A family's code of a language.

    Args:
        tag (`str`): As [`language_key`] takes it. A script other than the language's usual one needs a row of its
            own, so `"ur-Latn"` (romanised Urdu) has none.
        family (`str`): `"nllb"`, `"m2m100"` or `"madlad"`.

    Returns:
        `str`, *optional*: The code; `None` for a language that the table or the family lacks.

    Raises:
        `ValueError`: another family.
    """
    if family not in LanguageCodes._fields:
        raise ValueError(f"family is {family!r}; expected one of {list(LanguageCodes._fields)}; pass one of them")
    row = _rows_by_key().get(language_key(tag))
    return None if row is None else getattr(row, family)


@lru_cache(maxsize=1)
def _rows_by_key() -> dict[str, LanguageCodes]:
    return {language_key(tag): codes for tag, codes in LANGUAGE_CODES.items()}


@lru_cache(maxsize=4096)
def _split(tag: str) -> tuple[str, str] | None:
    """Canonical language and script of a tag; `None` for what is no tag."""
    match = _TAG.fullmatch(tag.strip())
    if match is None:
        return None
    language, script, territory = match.groups()
    # CLDR's aliases may carry more than a language: sh is sr_Latn, prs is fa_AF.
    language, *rest = get_global("language_aliases").get(language.lower(), language.lower()).split("_")
    script = script or next((part for part in rest if len(part) == 4), None)
    likely = get_global("likely_subtags")
    expanded = likely.get(f"{language}_{territory.upper()}") if territory else None
    usual = (expanded or likely.get(language) or "__").split("_")[1]
    script = script.title() if script else usual
    return language, "Kore" if script == "Hang" else script  # FLORES names Korean's alphabet, CLDR its mixed script
