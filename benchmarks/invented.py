"""Mentions that have no concept: invented strings of the kinds that turn up in a column of findings and are none.

*general*: everyday words, alone and in pairs. *clinical*: what records hold beside findings (procedures, devices, drugs, errands), alone
and with a remark. The words are written for this; a row means the same in each language.
"""

from typing import NamedTuple

import numpy as np

_LANGUAGES = ("en", "de", "es", "fr", "ja", "tr", "zh")
_GENERAL = """
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
_CLINICAL = """
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
_LINKS = """
and|und|y|et|と|ve|和
without|ohne|sin|sans|なしの|olmadan|没有
beside|neben|junto a|à côté de|の隣の|yanında|旁边的
behind|hinter|detrás de|derrière|の後ろの|arkasında|后面的
instead of|statt|en lugar de|au lieu de|の代わりの|yerine|代替
"""
_REMARKS = """
planned|geplant|programado|prévu|予定|planlandı|已预约
refused|abgelehnt|rechazado|refusé|拒否|reddedildi|已拒绝
in two weeks|in zwei Wochen|en dos semanas|dans deux semaines|二週間後|iki hafta sonra|两周后
last year|letztes Jahr|el año pasado|l'année dernière|昨年|geçen yıl|去年
at home|zu Hause|en casa|à domicile|自宅|evde|在家
twice a day|zweimal täglich|dos veces al día|deux fois par jour|一日二回|günde iki kez|每日两次
check-up|Kontrolle|control|contrôle|経過観察|kontrol|复查
no. 12|Nr. 12|n.º 12|n° 12|12番|no. 12|12号
"""
_SPACES = dict(zip(_LANGUAGES, (" ", " ", " ", " ", "", " ", ""), strict=True))


class Invented(NamedTuple):
    """A mention without a concept; kind: general or clinical."""

    mention: str
    kind: str


def invent(language: str, count: int, *, half: int, seed: int) -> list[Invented]:
    """`count` different mentions, or as many as there are, of both kinds alike. A language without words of its own gets English ones.

    half: 0 or 1. The two halves have no words in common, links and remarks aside.
    """
    column = _LANGUAGES.index(language) if language in _SPACES else 0
    space = _SPACES[_LANGUAGES[column]]
    links, remarks = ([row[column] for row in _rows(table)] for table in (_LINKS, _REMARKS))
    rng = np.random.default_rng([seed, half, column])
    chosen: list[Invented] = []
    for kind, table, wanted in (("general", _GENERAL, count - count // 2), ("clinical", _CLINICAL, count // 2)):
        rows = _rows(table)
        words = [
            rows[i][column] for i in np.random.default_rng([seed, len(kind)]).permutation(len(rows))[half::2]
        ]  # of all languages alike
        pairs = [space.join((a, link, b)) for link in (links if kind == "general" else links[:1]) for a in words for b in words if a != b]
        remarked = [form.format(word, remark) for form in ("{}, {}", "{} ({})") for word in words for remark in remarks]
        unique = list(dict.fromkeys([*words, *pairs, *(remarked if kind == "clinical" else [])]))
        chosen += [Invented(unique[i], kind) for i in rng.permutation(len(unique))[:wanted]]
    return chosen


def _rows(table: str) -> list[list[str]]:
    return [line.split("|") for line in table.strip().splitlines()]
