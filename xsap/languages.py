"""Language codes: UMLS LAT (ISO 639-2/B in capitals) ↔ ISO 639-1 ↔ names for people.

Inside xsap a language is its ISO 639-1 code, `en`; readers convert other codes and names. The table has every language of ISO 639-1, among them
all languages of the UMLS (https://www.nlm.nih.gov/research/umls/knowledge_sources/metathesaurus/release/abbreviations.html), HPO and XLM-R,
with its English name, its name for itself (Unicode CLDR) and other names in use. A name in a third language, such as `anglais`, is unknown:
what is not in the table is never taken for the most similar language, nor is that one suggested.
"""

import re
from functools import cache

from xsap.errors import DataError
from xsap.text import fold_accents

ENGLISH = "en"
MULTIPLE = "mul"  # ISO 639-2: a name that holds in every language, as in Wikidata
UNKNOWN = "und"  # ISO 639-2 for an undetermined language

# ISO 639-1, UMLS, ISO 639-3, then names separated by bars: the English one first
_TABLE = """
aa AAR aar Afar|Qafar
ab ABK abk Abkhazian|Аԥсшәа|Abkhaz
ae AVE ave Avestan
af AFR afr Afrikaans
ak AKA aka Akan
am AMH amh Amharic|አማርኛ
an ARG arg Aragonese|aragonés
ar ARA ara Arabic|العربية|عربي
as ASM asm Assamese|অসমীয়া
av AVA ava Avaric|Avar
ay AYM aym Aymara
az AZE aze Azerbaijani|azərbaycan|Azeri|azərbaycan dili|azərbaycanca
ba BAK bak Bashkir|башҡорт
be BEL bel Belarusian|беларуская|Belorussian|беларуская мова
bg BUL bul Bulgarian|български|български език
bi BIS bis Bislama
bm BAM bam Bambara|bamanakan
bn BEN ben Bengali|বাংলা|Bangla
bo TIB bod Tibetan|བོད་སྐད་
br BRE bre Breton|brezhoneg
bs BOS bos Bosnian|bosanski
ca CAT cat Catalan|català|Valencian|valencià
ce CHE che Chechen|нохчийн
ch CHA cha Chamorro
co COS cos Corsican|corsu
cr CRE cre Cree
cs CZE ces Czech|čeština|český jazyk|česky
cu CHU chu Church Slavic|церковнослове́нскїй|Church Slavonic|Old Church Slavonic
cv CHV chv Chuvash|чӑваш чӗлхи
cy WEL cym Welsh|Cymraeg
da DAN dan Danish|dansk
de GER deu German|Deutsch|deutsche Sprache
dv DIV div Divehi|ދިވެހިބަސް|Maldivian|Dhivehi
dz DZO dzo Dzongkha|རྫོང་ཁ
ee EWE ewe Ewe|eʋegbe
el GRE ell Greek|Ελληνικά|Modern Greek|ελληνική
en ENG eng English
eo EPO epo Esperanto
es SPA spa Spanish|español|Castilian|castellano|lengua española
et EST est Estonian|eesti|eesti keel
eu BAQ eus Basque|euskara
fa PER fas Persian|فارسی|Farsi
ff FUL ful Fula|Pulaar|Fulah
fi FIN fin Finnish|suomi|suomen kieli
fj FIJ fij Fijian
fo FAO fao Faroese|føroyskt
fr FRE fra French|français|langue française
fy FRY fry Western Frisian|Frysk|West Frisian
ga GLE gle Irish|Gaeilge
gd GLA gla Scottish Gaelic|Gàidhlig
gl GLG glg Galician|galego
gn GRN grn Guarani|avañe’ẽ
gu GUJ guj Gujarati|ગુજરાતી
gv GLV glv Manx|Gaelg
ha HAU hau Hausa
he HEB heb Hebrew|עברית|Modern Hebrew
hi HIN hin Hindi|हिन्दी
ho HMO hmo Hiri Motu
hr HRV hrv Croatian|hrvatski|hrvatski jezik
ht HAT hat Haitian Creole|Kreyòl Ayisyen|Haitian|Kreyòl
hu HUN hun Hungarian|magyar|magyar nyelv
hy ARM hye Armenian|հայերեն
hz HER her Herero
ia INA ina Interlingua
id IND ind Indonesian|Indonesia|bahasa Indonesia
ie ILE ile Interlingue
ig IBO ibo Igbo|Asụsụ Igbo
ii III iii Sichuan Yi|ꆈꌠꉙ|Nuosu
ik IPK ipk Inupiaq
io IDO ido Ido
is ICE isl Icelandic|íslenska
it ITA ita Italian|italiano|lingua italiana
iu IKU iku Inuktitut|ᐃᓄᒃᑎᑐᑦ
ja JPN jpn Japanese|日本語|にほんご
jv JAV jav Javanese|Jawa
ka GEO kat Georgian|ქართული
kg KON kon Kongo
ki KIK kik Kikuyu|Gĩgĩkũyũ|Gikuyu
kj KUA kua Kuanyama|Kwanyama
kk KAZ kaz Kazakh|қазақ тілі|қазақша|қазақ
kl KAL kal Kalaallisut|Greenlandic
km KHM khm Khmer|ខ្មែរ|ភាសាខ្មែរ|Central Khmer|Cambodian
kn KAN kan Kannada|ಕನ್ನಡ
ko KOR kor Korean|한국어|한국말|조선말
kr KAU kau Kanuri
ks KAS kas Kashmiri|کٲشُر
ku KUR kur Kurdish|kurdî|Kurmanji|kurmancî
kv KOM kom Komi
kw COR cor Cornish|kernewek
ky KIR kir Kyrgyz|кыргызча|Kirghiz
la LAT lat Latin|Latina|lingua Latina
lb LTZ ltz Luxembourgish|Lëtzebuergesch|Letzeburgesch
lg LUG lug Ganda|Luganda
li LIM lim Limburgish|Limburgan|Limburgs
ln LIN lin Lingala|lingála
lo LAO lao Lao|ລາວ|ພາສາລາວ|Laotian
lt LIT lit Lithuanian|lietuvių|lietuvių kalba
lu LUB lub Luba-Katanga|Tshiluba
lv LAV lav Latvian|latviešu|latviešu valoda
mg MLG mlg Malagasy
mh MAH mah Marshallese
mi MAO mri Maori|Māori
mk MAC mkd Macedonian|македонски|македонски јазик
ml MAL mal Malayalam|മലയാളം
mn MON mon Mongolian|монгол|монгол хэл
mr MAR mar Marathi|मराठी
ms MAY msa Malay|Melayu|bahasa Melayu
mt MLT mlt Maltese|Malti
my BUR mya Burmese|မြန်မာ|Myanmar|မြန်မာဘာသာ
na NAU nau Nauru
nd NDE nde North Ndebele
ne NEP nep Nepali|नेपाली
ng NDO ndo Ndonga
nl DUT nld Dutch|Nederlands|Flemish|Vlaams
no NOR nor Norwegian|norsk|Norwegian Bokmål|bokmål|norsk bokmål|Norwegian Nynorsk|nynorsk|norsk nynorsk
nr NBL nbl South Ndebele
nv NAV nav Navajo|Diné Bizaad
ny NYA nya Nyanja|Chichewa|Chewa
oc OCI oci Occitan
oj OJI oji Ojibwa
om ORM orm Oromo|Oromoo
or ORI ori Odia|ଓଡ଼ିଆ|Oriya
os OSS oss Ossetic|ирон|Ossetian
pa PAN pan Punjabi|ਪੰਜਾਬੀ|Panjabi
pi PLI pli Pali
pl POL pol Polish|polski|język polski
ps PUS pus Pashto|پښتو|Pushto
pt POR por Portuguese|português|língua portuguesa
qu QUE que Quechua|Runasimi
rm ROH roh Romansh|rumantsch|Romansch
rn RUN run Rundi|Ikirundi|Kirundi
ro RUM ron Romanian|română|Moldavian|Moldovan|limba română|moldovenească
ru RUS rus Russian|русский|русский язык
rw KIN kin Kinyarwanda|Ikinyarwanda
sa SAN san Sanskrit|संस्कृत भाषा
sc SRD srd Sardinian|sardu
sd SND snd Sindhi|سنڌي
se SME sme Northern Sami|davvisámegiella|sámegiella
sg SAG sag Sango|Sängö
si SIN sin Sinhala|සිංහල|Sinhalese
sk SLO slk Slovak|slovenčina|slovenský jazyk|slovensky
sl SLV slv Slovenian|slovenščina|Slovene|slovenski jezik
sm SMO smo Samoan
sn SNA sna Shona|chiShona
so SOM som Somali|Soomaali
sq ALB sqi Albanian|shqip|gjuha shqipe
sr SRP srp Serbian|српски|srpski|српски језик|srpski jezik
ss SSW ssw Swati|siSwati|Swazi
st SOT sot Southern Sotho|Sesotho
su SUN sun Sundanese|Basa Sunda
sv SWE swe Swedish|svenska
sw SWA swa Swahili|Kiswahili
ta TAM tam Tamil|தமிழ்
te TEL tel Telugu|తెలుగు
tg TGK tgk Tajik|тоҷикӣ|Tajiki
th THA tha Thai|ไทย|ภาษาไทย
ti TIR tir Tigrinya|ትግርኛ
tk TUK tuk Turkmen|türkmen dili
tl TGL tgl Tagalog|Filipino|Pilipino
tn TSN tsn Tswana|Setswana
to TON ton Tongan|lea fakatonga
tr TUR tur Turkish|Türkçe|Türk dili
ts TSO tso Tsonga|Xitsonga
tt TAT tat Tatar|татар
tw TWI twi Twi
ty TAH tah Tahitian
ug UIG uig Uyghur|ئۇيغۇرچە|Uighur
uk UKR ukr Ukrainian|українська|українська мова
ur URD urd Urdu|اردو
uz UZB uzb Uzbek|o‘zbek|oʻzbekcha|ўзбек
ve VEN ven Venda|Tshivenḓa
vi VIE vie Vietnamese|Tiếng Việt|Việt
vo VOL vol Volapük
wa WLN wln Walloon|walon
wo WOL wol Wolof
xh XHO xho Xhosa|IsiXhosa
yi YID yid Yiddish|ייִדיש
yo YOR yor Yoruba|Èdè Yorùbá
za ZHA zha Zhuang|Vahcuengh
zh CHI zho Chinese|中文|汉语|漢語|华语|華語|普通话|國語|Mandarin|Mandarin Chinese|Simplified Chinese|Traditional Chinese|简体中文|繁體中文|繁体中文
zu ZUL zul Zulu|isiZulu
mul MUL mul Multiple languages
und UND und Undetermined|Unknown
"""
_ROWS = [line.split(maxsplit=3) for line in _TABLE.strip().splitlines()]
_NAMES = {iso: names.split("|") for iso, _, _, names in _ROWS}
_UMLS = {iso: lat for iso, lat, _, _ in _ROWS}
_ISO_OF_CODE = {code.lower(): iso for iso, *codes, _ in _ROWS for code in (iso, *codes)}
# Codes of the two written forms of Norwegian, of what ISO 639-3 counts as the standard form of a language, and codes that were replaced
# (SCR and SCC: Croatian and Serbian in the UMLS up to 2012).
_OTHER_CODES = """
no nb nob nn nno; hr scr; sr scc; zh cmn; ar arb; fa pes prs; et ekk; lv lvs; sw swh; ms zsm; tl fil; az azj; uz uzn; mn khk; ne npi; or ory;
mg plt; om gaz; ku kmr; ps pbu pbt; yi ydd ji; he iw; id in; jv jw; ro mo mol
"""
_ISO_OF_CODE |= {code: iso for iso, *codes in (group.split() for group in _OTHER_CODES.split(";")) for code in codes}
_ISO_OF_NAME = {fold_accents(name): iso for iso, names in _NAMES.items() for name in names}
# A language tag of BCP 47: a code, then an extended language, script, region, variants and extensions.
_TAG = re.compile(
    "([a-z]{2,3})(-[a-z]{3}){0,3}(-[a-z]{4})?(-([a-z]{2}|[0-9]{3}))?(-([a-z0-9]{5,8}|[0-9][a-z0-9]{3}))*(-[a-z0-9](-[a-z0-9]{1,8})+)*"
)
_ENCODING = re.compile(r"[.@].*")  # the end of a locale of POSIX: de_DE.UTF-8
_QUALIFIER = re.compile(r"[(（].*")  # English (United States)
_OTHER_LANGUAGE = re.compile("ancient|classical|old|middle|sign|creole|[0-9]")  # Greek (ancient) is not Greek


@cache
def to_iso(code: str) -> str:
    """The ISO 639-1 code of a language, given by any of its codes, a language tag, its English name or its own name.

    Args:
        code: Letter case and accents do not matter.

    Raises:
        DataError: The language is not known. No similar name is suggested: `Rumänisch` is closer to Romansh than to Romanian.

    >>> [to_iso(code) for code in ("ENG", "deu", "pt-BR", "Spanish", "français", "中文")]
    ['en', 'de', 'pt', 'es', 'fr', 'zh']
    """
    found = _of_code(code) or named_language(code)
    if found is None:
        expected = "a UMLS or ISO 639 code, or a name in English or the language itself"
        raise DataError(f"unknown language '{code}': expected {expected}, such as GER, de, German or Deutsch")
    return found


def named_language(name: str) -> str | None:
    """The ISO 639-1 code of a language by its English name or its own name, never by a code; None for an unknown name.

    >>> named_language("English (United States)"), named_language("Deutsch"), named_language("de")
    ('en', 'de', None)
    """
    folded = fold_accents(name)
    if found := _ISO_OF_NAME.get(folded):
        return found
    qualifier = _QUALIFIER.search(folded)
    if qualifier is None or _OTHER_LANGUAGE.search(qualifier[0]):
        return None
    return _ISO_OF_NAME.get(folded[: qualifier.start()].rstrip())


def to_umls(code: str) -> str:
    """The UMLS LAT code of a language: `en` → `ENG`."""
    return _UMLS[to_iso(code)]


def to_name(code: str) -> str:
    """The English name of a language: `de` → `German`."""
    return _NAMES[to_iso(code)][0]


def parse_languages(text: str) -> frozenset[str] | None:
    """A comma-separated list of languages as ISO codes; None for `all`."""
    if text.strip().lower() == "all":
        return None
    codes = frozenset(to_iso(part) for part in text.split(",") if part.strip())
    if not codes:
        raise DataError(f"expected 'all' or languages such as 'en,es', found '{text}'")
    return codes


def _of_code(code: str) -> str | None:
    key = _ENCODING.sub("", code.strip().lower().replace("_", "-"))
    if (found := _ISO_OF_CODE.get(key)) or not (tag := _TAG.fullmatch(key)):
        return found
    return _ISO_OF_CODE.get(tag[1])
