"""NIL detection and abstention: precision when half of the mentions have no concept, against the guaranteed precision.

A third of the mentions' concepts is hidden from the answers, so their mentions have no concept although all similar
concepts are still there: the hardest kind. In each language, synthetic mentions without a concept are added until half
of all mentions have none: *general* ones are everyday words, alone and in pairs; *clinical* ones are other contents of
medical records (procedures, devices, drugs, administration), alone and with a remark. A row of a table means the same in each language.

Everything is split into halves that have no concept and no synthetic word in common. The calibration is fitted on one
half and measured on the other. The table also shows a calibration that was fitted only on mentions that have a concept.
"""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.speed.harness import Target, target
from xsap.evaluation.calibration_report import (
    ALL,
    BINS,
    AnsweredPart,
    CalibrationReport,
    ConfidenceScores,
    confidence_scores,
    expected_calibration_error,
    report_on,
    to_text,
)
from xsap.evaluation.protocols import MentionLinker
from xsap.evaluation.tuning import CalibrationSample, link_sample
from xsap.languages import UNKNOWN
from xsap.linking.calibration import Calibration, codes_of, fit, risk_coverage
from xsap.linking.logistic import Values
from xsap.linking.results import Result
from xsap.page import markdown
from xsap.terms.mentions import build_mentions

LANGUAGES = ("en", "de", "es", "fr", "ja", "tr", "zh")
GENERAL = """
garden|Garten|jardín|jardin|庭|bahçe|花园
bridge over the river|Brücke über den Fluss|puente sobre el río|pont sur la rivière|川の橋|nehrin üzerindeki köprü|河上的桥
library|Bibliothek|biblioteca|bibliothèque|図書館|kütüphane|图书馆
train ticket|Fahrkarte|billete de tren|billet de train|電車の切符|tren bileti|火车票
football match|Fußballspiel|partido de fútbol|match de football|サッカーの試合|futbol maçı|足球比赛
mountain lake|Bergsee|lago de montaña|lac de montagne|山の湖|dağ gölü|高山湖泊
kitchen table|Küchentisch|mesa de cocina|table de cuisine|台所のテーブル|mutfak masası|厨房桌子
tax return|Steuererklärung|declaración de la renta|déclaration de revenus|確定申告|vergi beyannamesi|纳税申报
violin|Geige|violín|violon|バイオリン|keman|小提琴
birthday cake|Geburtstagskuchen|tarta de cumpleaños|gâteau d'anniversaire|誕生日ケーキ|doğum günü pastası|生日蛋糕
winter coat|Wintermantel|abrigo de invierno|manteau d'hiver|冬のコート|kışlık palto|冬衣
traffic light|Ampel|semáforo|feu de circulation|信号機|trafik ışığı|红绿灯
old castle|alte Burg|castillo antiguo|vieux château|古い城|eski kale|古堡
computer keyboard|Computertastatur|teclado de ordenador|clavier d'ordinateur|パソコンのキーボード|bilgisayar klavyesi|电脑键盘
sunflower|Sonnenblume|girasol|tournesol|ひまわり|ayçiçeği|向日葵
parliament|Parlament|parlamento|parlement|国会|parlamento|议会
fishing boat|Fischerboot|barco de pesca|bateau de pêche|漁船|balıkçı teknesi|渔船
bus stop|Bushaltestelle|parada de autobús|arrêt de bus|バス停|otobüs durağı|公交车站
poem|Gedicht|poema|poème|詩|şiir|诗歌
interest rate|Zinssatz|tipo de interés|taux d'intérêt|金利|faiz oranı|利率
bicycle|Fahrrad|bicicleta|vélo|自転車|bisiklet|自行车
apple tree|Apfelbaum|manzano|pommier|りんごの木|elma ağacı|苹果树
newspaper|Zeitung|periódico|journal|新聞|gazete|报纸
chess board|Schachbrett|tablero de ajedrez|échiquier|チェス盤|satranç tahtası|棋盘
airport|Flughafen|aeropuerto|aéroport|空港|havaalanı|机场
wool blanket|Wolldecke|manta de lana|couverture en laine|毛布|yün battaniye|羊毛毯
lighthouse|Leuchtturm|faro|phare|灯台|deniz feneri|灯塔
cookbook|Kochbuch|libro de cocina|livre de cuisine|料理本|yemek kitabı|食谱
school holidays|Schulferien|vacaciones escolares|vacances scolaires|学校の休み|okul tatili|学校假期
power station|Kraftwerk|central eléctrica|centrale électrique|発電所|elektrik santrali|发电站
"""
CLINICAL = """
blood draw|Blutentnahme|extracción de sangre|prise de sang|採血|kan alma|抽血
X-ray of the knee|Röntgen des Knies|radiografía de rodilla|radiographie du genou|膝のレントゲン|diz röntgeni|膝关节X光检查
MRI of the head|MRT des Kopfes|resonancia magnética de la cabeza|IRM de la tête|頭部MRI|baş MR'ı|头部磁共振
flu vaccination|Grippeimpfung|vacuna contra la gripe|vaccination contre la grippe|インフルエンザワクチン接種|grip aşısı|流感疫苗接种
wound dressing|Wundverband|vendaje de la herida|pansement de la plaie|創傷被覆材|yara pansumanı|伤口敷料
physiotherapy|Krankengymnastik|fisioterapia|kinésithérapie|理学療法|fizik tedavi|物理治疗
sick note|Krankschreibung|baja laboral|arrêt de travail|病欠診断書|hastalık raporu|病假条
discharge letter|Entlassungsbrief|informe de alta|lettre de sortie|退院サマリー|taburcu mektubu|出院小结
hospital bed|Krankenhausbett|cama de hospital|lit d'hôpital|病院のベッド|hastane yatağı|病床
removal of the appendix|Blinddarmoperation|extirpación del apéndice|ablation de l'appendice|虫垂切除術|apandis ameliyatı|阑尾切除术
cataract surgery|Staroperation|cirugía de cataratas|opération de la cataracte|白内障手術|katarakt ameliyatı|白内障手术
hip replacement|Hüftprothese|prótesis de cadera|prothèse de hanche|人工股関節置換術|kalça protezi|髋关节置换术
oxygen mask|Sauerstoffmaske|mascarilla de oxígeno|masque à oxygène|酸素マスク|oksijen maskesi|氧气面罩
infusion pump|Infusionspumpe|bomba de infusión|pompe à perfusion|輸液ポンプ|infüzyon pompası|输液泵
urine sample|Urinprobe|muestra de orina|échantillon d'urine|尿検体|idrar örneği|尿液标本
colonoscopy|Darmspiegelung|colonoscopia|coloscopie|大腸内視鏡検査|kolonoskopi|结肠镜检查
speech therapy|Logopädie|logopedia|orthophonie|言語療法|konuşma terapisi|言语治疗
low-salt diet|salzarme Kost|dieta baja en sal|régime pauvre en sel|減塩食|tuzsuz diyet|低盐饮食
insulin pen|Insulinpen|pluma de insulina|stylo à insuline|インスリンペン|insülin kalemi|胰岛素笔
second opinion|Zweitmeinung|segunda opinión|second avis médical|セカンドオピニオン|ikinci görüş|第二诊疗意见
waiting room|Wartezimmer|sala de espera|salle d'attente|待合室|bekleme odası|候诊室
transport by ambulance|Krankentransport|traslado en ambulancia|transport en ambulance|救急搬送|ambulansla nakil|救护车转运
antibiotic tablets|Antibiotikatabletten|comprimidos de antibiótico|comprimés d'antibiotique|抗生物質の錠剤|antibiyotik tableti|抗生素片
eye drops|Augentropfen|colirio|collyre|点眼薬|göz damlası|眼药水
cough syrup|Hustensaft|jarabe para la tos|sirop contre la toux|咳止めシロップ|öksürük şurubu|止咳糖浆
hearing aid|Hörgerät|audífono|appareil auditif|補聴器|işitme cihazı|助听器
wheelchair|Rollstuhl|silla de ruedas|fauteuil roulant|車椅子|tekerlekli sandalye|轮椅
ultrasound of the abdomen|Ultraschall des Bauches|ecografía abdominal|échographie de l'abdomen|腹部超音波検査|karın ultrasonu|腹部超声
consent to surgery|Einwilligung in die Operation|consentimiento para la cirugía|consentement à l'opération|手術の同意書|ameliyat onamı|手术同意书
compression stockings|Kompressionsstrümpfe|medias de compresión|bas de contention|弾性ストッキング|varis çorabı|弹力袜
"""
LINKS = """
and|und|y|et|と|ve|和
without|ohne|sin|sans|なしの|olmadan|没有
beside|neben|junto a|à côté de|の隣の|yanında|旁边的
behind|hinter|detrás de|derrière|の後ろの|arkasında|后面的
instead of|statt|en lugar de|au lieu de|の代わりの|yerine|代替
"""
REMARKS = """
planned|geplant|programado|prévu|予定|planlandı|已预约
refused|abgelehnt|rechazado|refusé|拒否|reddedildi|已拒绝
in two weeks|in zwei Wochen|en dos semanas|dans deux semaines|二週間後|iki hafta sonra|两周后
last year|letztes Jahr|el año pasado|l'année dernière|昨年|geçen yıl|去年
at home|zu Hause|en casa|à domicile|自宅|evde|在家
twice a day|zweimal täglich|dos veces al día|deux fois par jour|一日二回|günde iki kez|每日两次
check-up|Kontrolle|control|contrôle|経過観察|kontrol|复查
no. 12|Nr. 12|n.º 12|n° 12|12番|no. 12|12号
"""
SEPARATORS = dict(zip(LANGUAGES, (" ", " ", " ", " ", "", " ", ""), strict=True))
MENTION_KINDS = ("known", "hidden", "general", "clinical")
PROMISED_PRECISION, MIN_PRECISION = 0.95, 0.93  # guaranteed, and the lowest measured precision that passes
CONCEPTS_PER_HIDDEN = 3


class SyntheticMention(NamedTuple):
    """A mention without a concept; kind: general or clinical."""

    mention: str
    kind: str


@dataclass(frozen=True, slots=True)
class Half:
    """Linked mentions, and the kind of each."""

    sample: CalibrationSample
    kinds: list[str]


@dataclass(frozen=True, slots=True)
class VariantScores:
    """How good confidences are: log loss, expected calibration error, and area under the risk-coverage curve."""

    log_loss: float
    ece: float
    area: float


@dataclass(frozen=True, slots=True)
class NilResult:
    """Result of `evaluate_nil`.

    Attributes:
        mentions: Hash of the file of mentions.
        seed: What was drawn with.
        counts: fitted and measured → kind → number of mentions.
        report: The calibration's report on the measured half.
        kinds: Kind → scores of the confidences of its mentions.
        fitted_on_known: The report's row for all mentions, of a calibration fitted only on mentions with a concept.
        variants: The calibration and alternatives to it.
        target: The measured precision where PROMISED_PRECISION is guaranteed.
    """

    mentions: str
    seed: int
    counts: dict[str, dict[str, int]]
    report: CalibrationReport
    kinds: dict[str, ConfidenceScores]
    fitted_on_known: ConfidenceScores
    variants: dict[str, VariantScores]
    target: Target


def synthetic_mentions(language: str, count: int, *, half: int, seed: int) -> list[SyntheticMention]:
    """Different mentions without a concept, half of them general, half clinical.

    Args:
        language: ISO 639 code. A language without words of its own gets English ones.
        count: How many; fewer if there are not so many.
        half: 0 or 1. The halves have no words in common, except links and remarks.
        seed: Another seed gives other mentions.

    Returns:
        The mentions, general ones first.
    """
    column = LANGUAGES.index(language) if language in SEPARATORS else 0
    separator = SEPARATORS[LANGUAGES[column]]
    links, remarks = ([row[column] for row in table_rows(table)] for table in (LINKS, REMARKS))
    rng = np.random.default_rng([seed, half, column])
    chosen: list[SyntheticMention] = []
    for kind, table, wanted in (("general", GENERAL, count - count // 2), ("clinical", CLINICAL, count // 2)):
        rows = table_rows(table)
        order = np.random.default_rng([seed, len(kind)]).permutation(len(rows))[half::2]  # the same in all languages
        words = [rows[i][column] for i in order]
        pairs = [
            separator.join((a, link, b))
            for link, a, b in product(links if kind == "general" else links[:1], words, words)
            if a != b
        ]
        remarked = [form.format(word, remark) for form in ("{}, {}", "{} ({})") for word in words for remark in remarks]
        unique = list(dict.fromkeys([*words, *pairs, *(remarked if kind == "clinical" else [])]))
        chosen += [SyntheticMention(unique[i], kind) for i in rng.permutation(len(unique))[:wanted]]
    return chosen


def table_rows(table: str) -> list[list[str]]:
    """The rows of a table of words, a column for each of LANGUAGES."""
    return [line.split("|") for line in table.strip().splitlines()]


class MaskedLinker:
    """A linker that answers as if its index lacked some concepts."""

    def __init__(self, linker: MentionLinker, hidden: Collection[str]) -> None:
        self._linker, self._hidden = linker, frozenset(hidden)
        self.concept_ids = frozenset(linker.concept_ids) - self._hidden

    def link(self, mentions: Sequence[str], top_k: int, *, languages: Sequence[str] | None = None) -> list[Result]:
        """Link mentions, with more and more candidates until `top_k` are left after hiding, or there are no more.

        Args:
            mentions: The mentions.
            top_k: Candidates wanted for each.
            languages: The language of each.

        Returns:
            A result for each mention.
        """
        keys = list(zip(mentions, languages or [UNKNOWN] * len(mentions), strict=True))
        answers: dict[tuple[str, str], Result] = {}
        pending, requested = list(dict.fromkeys(keys)), 8 * top_k
        while pending:
            results = self._linker.link(
                [mention for mention, _ in pending], requested, languages=[language for _, language in pending]
            )
            for key, result in zip(pending, results, strict=True):
                left = tuple(c for c in result.candidates if c.concept_id not in self._hidden)[:top_k]
                if len(left) == top_k or len(result.candidates) < requested:
                    answers[key] = Result(result.mention, left, result.reason)
            pending, requested = [key for key in pending if key not in answers], 8 * requested
        return [answers[key] for key in keys]


def evaluate_nil(linker: MentionLinker, mentions: pa.Table, *, content_hash: str = "", seed: int) -> NilResult:
    """Fit a calibration on one half of mentions with and without a concept, and measure it on the other.

    Args:
        linker: What links.
        mentions: A table of mentions, see `terms.mentions.SCHEMA`.
        content_hash: Hash of their file.
        seed: Decides which concepts are hidden and how they are split.

    Returns:
        All figures.

    Raises:
        DataError: There are too few mentions.
    """
    fitted, held_out = split_halves(linker, mentions, seed=seed)
    train, test = fitted.sample, held_out.sample
    calibration, out_of_fold = fit(train.features, train.right, train.languages, train.groups, seed=seed)
    confidence = calibration.confidence(test.features, test.languages)
    report = report_on(calibration, confidence, test, seed=seed)
    thresholds, kinds, groups = report.thresholds, np.array(held_out.kinds), codes_of(test.groups)
    return NilResult(
        mentions=content_hash,
        seed=seed,
        counts={"fitted": dict(Counter(fitted.kinds)), "measured": dict(Counter(held_out.kinds))},
        report=report,
        kinds={
            kind: confidence_scores(
                confidence[mask],
                test.right[mask],
                groups[mask],
                thresholds,
                without_concept=test.without_concept[mask],
                gold_not_in_dictionary=int(test.gold_not_in_dictionary[mask].sum()),
                seed=seed,
            )
            for kind in MENTION_KINDS
            if (mask := kinds == kind).any()
        },
        fitted_on_known=_fit_on_known(fitted, held_out, seed),
        variants=_variants(train, test, calibration, out_of_fold, seed),
        target=precision_target(report.rows[ALL].at_precision[f"{PROMISED_PRECISION:g}"]),
    )


def precision_target(answered: AnsweredPart | None) -> Target:
    """The target for the answers that keep PROMISED_PRECISION; None if it could not be guaranteed."""
    precision = (answered.precision or 0.0) if answered else 0.0
    return target(f"precision measured where {PROMISED_PRECISION:g} is guaranteed", precision, MIN_PRECISION)


def split_halves(linker: MentionLinker, mentions: pa.Table, *, seed: int) -> tuple[Half, Half]:
    """Hide concepts, add synthetic mentions, and link all, in two halves without a concept or synthetic word in common.

    Args:
        linker: What links.
        mentions: A table of mentions.
        seed: Decides what is hidden, split and drawn.

    Returns:
        The half to fit on, and the half to measure on.
    """
    ids: list[list[str]] = mentions["concept_ids"].to_pylist()
    concepts = sorted({concept for gold in ids for concept in gold})
    rng = np.random.default_rng(seed)
    hidden = {concepts[i] for i in rng.permutation(len(concepts))[: len(concepts) // CONCEPTS_PER_HIDDEN]}
    half_of = dict(zip(concepts, rng.permutation(len(concepts)) % 2, strict=True))
    halves = np.array([half_of[min(gold)] if gold else i % 2 for i, gold in enumerate(ids)], np.int64)
    masked = MaskedLinker(linker, hidden)
    first, second = (_link_half(masked, mentions.filter(pa.array(halves == half)), half, seed) for half in (0, 1))
    return first, second


def _link_half(linker: MaskedLinker, mentions: pa.Table, half: int, seed: int) -> Half:
    """A half's mentions, and synthetic ones, linked."""
    known = np.array([not linker.concept_ids.isdisjoint(gold) for gold in mentions["concept_ids"].to_pylist()], bool)
    parts = {"known": mentions.filter(pa.array(known)), "hidden": mentions.filter(pa.array(~known))}
    counts = {kind: Counter(parts[kind]["language"].to_pylist()) for kind in parts}
    synthetic = [
        (each, language)
        for language, count in sorted(counts["known"].items())
        for each in synthetic_mentions(language, max(0, count - counts["hidden"][language]), half=half, seed=seed)
    ]
    for kind in MENTION_KINDS[2:]:
        chosen = [(each.mention, language) for each, language in synthetic if each.kind == kind]
        texts, languages = ([one[at] for one in chosen] for at in (0, 1))
        parts[kind] = build_mentions(texts, languages, [[] for _ in chosen])
    samples = [link_sample(linker, parts[kind]) for kind in MENTION_KINDS]
    kinds = [kind for kind, each in zip(MENTION_KINDS, samples, strict=True) for _ in each.languages]
    joined = CalibrationSample(
        features=np.concatenate([each.features for each in samples]),
        right=np.concatenate([each.right for each in samples]),
        languages=[code for each in samples for code in each.languages],
        groups=[group for each in samples for group in each.groups],
        without_concept=np.concatenate([each.without_concept for each in samples]),
        gold_not_in_dictionary=np.concatenate([each.gold_not_in_dictionary for each in samples]),
        repeated=sum(each.repeated for each in samples),
        unlinked=sum(each.unlinked for each in samples),
    )
    return Half(joined, kinds)


def _fit_on_known(fitted: Half, held_out: Half, seed: int) -> ConfidenceScores:
    """Measured precision of a calibration that was fitted only on mentions with a concept."""
    train, test = fitted.sample, held_out.sample
    known = ~(train.without_concept | train.gold_not_in_dictionary)
    codes, groups = (np.array(column, object)[known].tolist() for column in (train.languages, train.groups))
    calibration, _ = fit(train.features[known], train.right[known], codes, groups, seed=seed)
    confidence = calibration.confidence(test.features, test.languages)
    return report_on(calibration, confidence, test, seed=seed).rows[ALL]


def _variants(
    train: CalibrationSample,
    test: CalibrationSample,
    calibration: Calibration,
    out_of_fold: Values,
    seed: int,
) -> dict[str, VariantScores]:
    """Scores of the calibration and of alternatives to it."""

    def refitted(features: Sequence[Values], languages: Sequence[Sequence[str | None]]) -> Values:
        fitted, _ = fit(features[0], train.right, languages[0], train.groups, seed=seed)
        return fitted.confidence(features[1], languages[1])

    features, codes = (train.features, test.features), (train.languages, test.languages)
    confidence = calibration.confidence(test.features, test.languages)
    variants = {
        "as it is": confidence,
        "without the lead": refitted([each * [1.0, 0.0] for each in features], codes),
        "without languages": refitted(features, [[None] * len(each) for each in codes]),
        "isotonic on top": isotonic(out_of_fold, train.right, confidence),
        "isotonic on the score alone": isotonic(train.features[:, 0], train.right, test.features[:, 0]),
    }
    return {
        name: VariantScores(
            log_loss=_log_loss(each, test.right),
            ece=expected_calibration_error(each, test.right, BINS),
            area=float(risk_coverage(each, test.right)[1].mean()),
        )
        for name, each in variants.items()
    }


def isotonic(values: Values, right: NDArray[np.bool_], at: Values) -> Values:
    """Isotonic regression by pooling adjacent violators (Ayer et al. 1955).

    Args:
        values: (n,) float64.
        right: (n,) whether each is a hit.
        at: (m,) float64.

    Returns:
        (m,) the fraction of hits at `at`, never falling with the value, linear between the values.
    """
    unique, position, count = np.unique(values, return_inverse=True, return_counts=True)
    blocks: list[tuple[float, int, int]] = []  # hits, mentions, values
    for hits, n in zip(np.bincount(position, weights=right), count.tolist(), strict=True):
        block = (float(hits), n, 1)
        while blocks and blocks[-1][0] * block[1] >= block[0] * blocks[-1][1]:
            before = blocks.pop()
            block = (before[0] + block[0], before[1] + block[1], before[2] + block[2])
        blocks.append(block)
    fractions = np.concatenate([np.full(size, hits / n) for hits, n, size in blocks])
    interpolated: Values = np.interp(at, unique, fractions)
    return interpolated


def _log_loss(confidence: Values, right: NDArray[np.bool_]) -> float:
    """Mean log loss; confidences are kept from 0 and 1, which isotonic regression gives, by a thousandth."""
    inside = np.clip(confidence, 1e-3, 1 - 1e-3)
    return float(-np.mean(np.log(np.where(right, inside, 1 - inside))))


def nil_table(result: NilResult) -> str:
    """All figures as tables for people."""
    counts = [
        f"{half}: {', '.join(f'{n:,} {kind}' for kind, n in kinds.items())}" for half, kinds in result.counts.items()
    ]
    promised = list(result.report.thresholds)
    kinds = [["answered, %", *(f"at {p}" for p in promised)]]
    kinds += [
        [kind, *(_percent(row.at_precision[p], "coverage") for p in promised)] for kind, row in result.kinds.items()
    ]
    known = [["fitted without NIL", *(f"at {p}" for p in promised)]]
    known += [
        [name, *(_percent(result.fitted_on_known.at_precision[p], name) for p in promised)]
        for name in ("coverage", "precision")
    ]
    variants = [["", "log loss", "ECE, %", "area, %"]]
    variants += [
        [name, f"{each.log_loss:.4f}", f"{100 * each.ece:.2f}", f"{100 * each.area:.2f}"]
        for name, each in result.variants.items()
    ]
    tables = ["\n".join(markdown(table)) for table in (kinds, known, variants)]
    return "\n\n".join(["\n".join(counts), to_text(result.report), *tables, str(result.target)])


def _percent(answered: AnsweredPart | None, name: str) -> str:
    value = getattr(answered, name, None)
    return f"{100 * value:.1f}" if isinstance(value, float) else "–"
