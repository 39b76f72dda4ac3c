"""Stop words: function words that terminologies also list as names (`all`, `was`, `die`, `que`), by language.

A span of stop words of the text's language, or of characters without spaces that are one, is no mention, unless it is written in capitals, as an
abbreviation is. The lists have articles, pronouns, prepositions, conjunctions, auxiliary verbs and negations only; a word that is also a finding (`mal`,
`cold`) is in none. They are compared in the form of `look_up_key`, so accents and letter case do not matter. For a text whose language is unknown, or
has no list, all lists count.
"""

from functools import cache

from xsap.languages import UNKNOWN
from xsap.text import look_up_key

STOP_WORDS = {
    "en": "a about above after again against all also am an and any are as at be because been before being below between both but by can could did "
    "do does doing down during each few for from further had has have having he her here hers him his how i if in into is it its itself just me "
    "more most my no nor not now of off on once only or other our out over own per same she should since so some such than that the their them "
    "then there these they this those through to too under until up upon us very via was we were what when where which while who whom why will "
    "with within without would you your may might must shall et al",
    "de": "aber alle allem allen aller alles als also am an andere anderen auch auf aus bei beim bin bis bist da damit dann das dass dem den denn der "
    "des dessen die dies diese diesem diesen dieser dieses doch dort du durch ein eine einem einen einer eines er es etwa etwas für gegen habe haben "
    "hat hatte hatten hier hin hinter ich ihm ihn ihr ihre ihrem ihren ihrer im in ins ist ja jede jedem jeden jeder jedes kann kein keine keinem "
    "keinen keiner können man mehr mein mit muss nach nicht nichts noch nun nur ob oder ohne sehr sein seine seinem seinen seiner seit sich sie sind "
    "so sowie über um und uns unter vom von vor war waren was weil welche welcher wenn wer werden wie wieder wird wir wo worden wurde wurden zu zum "
    "zur zwischen",
    "fr": "à au aux avec avait avaient avoir ce ces cet cette chez ci comme d dans de des donc du elle elles en entre est et était étaient été être eu "
    "eux il ils j je l la le les leur leurs lors lui m mais me même mes moi mon n ne ni nos notre nous on ont ou où par pas peu plus pour puis qu "
    "quand que qui quoi s sa sans se ses si soit son sont sous sur ta te tes toi ton tous tout toute toutes très tu un une vers vos votre vous y",
    "es": "a al algo ante antes aún cada como con contra cual cuando de del desde donde dos durante e el él ella ellas ellos en entre era eran es esa "
    "esas ese eso esos esta está están estas este esto estos fue fueron ha haber había han hasta hay la las le les lo los más me mi muy ni no nos "
    "o otra otras otro otros para pero por porque que qué quien se según ser si sí sido sin sobre son su sus también tanto te tiene todo todos tras "
    "tu u un una unas uno unos y ya yo",
    "pt": "a à ao aos as às até com como da das de dela dele deles depois do dos e é ela elas ele eles em entre era eram essa esse esta está estão este "
    "eu foi foram há isso isto já lhe mais mas me mesmo meu muito na não nas nem no nos o os ou para pela pelas pelo pelos por qual quando que quem "
    "se sem ser seu seus só sua suas também te tem tinha um uma umas uns você",
    "it": "a ad al alla alle allo ai agli anche c che chi ci col come con cui d da dal dalla dalle dei degli del della delle dello di dopo due e è ed era "
    "erano essere fra gli ha hanno i il in io l la le lei li lo loro ma me mi mia mio ne negli nei nel nella nelle nello noi non o per perché più "
    "poi prima quale quando quella quelle quelli quello questa queste questi questo se sei senza si sia sono stata stato su sua sue sui sul sulla "
    "suo suoi tra tu un una uno vi voi",
    "nl": "aan al alle als andere bij dan dat de der des deze die dit doch door een en er had hadden heb hebben heeft hem het hier hij hoe hun ik in is "
    "ja je kan maar me meer men met mij mijn na naar niet niets nog nu of om omdat onder ook op over reeds te tegen tijdens toch toen tot u uit van "
    "veel voor waar waren was wat we wel werd werden wie wij worden wordt ze zei zich zij zijn zo zonder zou",
    "sv": "alla att av bara blev bli blir de dem den denna deras dess det detta dig din du där efter ej eller en er ett för från ha hade han har hans "
    "hennes här hon i icke inga ingen inte jag kan man med mellan men mig min mot mycket ni nu när någon något några och om oss på samma sedan sig sin "
    "sitt skulle som så till under upp ut utan vad var varit vi vid vilken är än åt över",
    "da": "af alle at blev blive bliver da de dem den denne der deres det dette dig din du efter eller en end er et for fra ham han hans har havde hun "
    "hvad hvis hvor i ikke ind ingen jeg jo kan kunne man med meget men mig min mod ned når noget nogle nu og også om op os over på sig sin som "
    "til ud under var ved vi vil være været",
    "no": "alle at av bare ble bli blir da de den denne der deres det dette du eller en enn er et etter for fra før ha hadde han har hun hva hvor i ikke "
    "ingen jeg kan man med men meg min mot må ned noe noen nå når og også om opp oss over på seg sin skal som så til under ut var ved vi vil være vært",
    "fi": "ei eivät eli en että ha he hän ja jo joka jos jotka kanssa kuin kun me mikä minä mukaan mutta myös ne niin nyt olen oli olivat olla on ovat se "
    "sekä sen siitä sinä tai tämä tässä te vaan vai vain",
    "pl": "a aby albo ale ani bez bo być był była było były by co czy dla do gdy go i ich im ja jak jako je jego jej jest już każdy która które który "
    "lub ma mi mnie może na nad nie niż o od on ona one oni oraz po pod przed przez przy są się sobie ta tak tam te tego tej ten to tu tych tym u "
    "w we z za ze że",
    "cs": "a aby ale ani až bez bude by byl byla bylo byly být co do i já jak jako je jeho její jejich jen ještě ji již jsem jsme jsou k kde kdy která "
    "které který mezi mi na nad ne nebo není než o od on ona oni po pod podle pro před při s se si so ta tak také tato te ten tento to toho tím u už v "
    "ve však z za ze že",
    "tr": "acaba ama ancak bazı belki ben beni bir biri birkaç biz bu bunu çok çünkü da daha de defa değil diğer diye en eğer gibi göre hem hep her hiç "
    "için ile ise ki kim mi mu mü mı nasıl ne neden o olan olarak oldu olduğu olup ona onu sanki siz sonra şey şu tüm ve veya ya yani",
    "ru": "а без бы был была были было быть в вам вас весь во вот все всё вы где да для до его её если есть ещё же за и из или им их к как ко когда кто ли "
    "либо мне может мы на над не него нее нет ни них но ну о об однако он она они оно от по под при с со так также такой там те тем то того тоже той "
    "только том ты у уже хотя чего чей чем что чтобы эта эти это этот я",
    "uk": "а або але без був була були було бути в вже ви від він вона вони для до з за й і із її їх його коли ми на над не ні о об по при про с та так "
    "також те ти то той тому у це цей ця чи що щоб як який я",
    "el": "αν από για δε δεν εδώ εγώ είναι εκεί εμείς ένα ένας εσύ έχει ή η ήταν θα και κατά με μετά μη μια να ο οι όμως όπως όταν ότι ου που προς πως σε "
    "στα στη στην στις στο στον στους τα τη την της τι τις το τον του τους των ως",
    "ro": "a ai al ale am ar are au ca că care ce cel cea cei cele cu cum da dar de din după ea ei el ele era este eu fără fi fie fost i în îi în între îl "
    "la le lor lui mai mi nici nu o pe pentru prin s sa să sau se și sub sunt te un una unei unor unui va",
    "hu": "a az abban ahogy aki akik ami amikor azt be csak de egy el én és ez ezt fel ha hogy ide is ki le lehet lesz már meg mert mi mint mit nagyon ne "
    "nem nincs olyan ő ők ott pedig s sem szerint így úgy vagy van volt",
    "ar": "أن إن إلى أو أي بعد بين تم ثم حتى عن على عند غير في قد كان كانت كل لا لم لن ما مع من منذ هذا هذه هو هي و التي الذي ذلك",
    "fa": "از آن است اما او اگر این با بر برای به بود تا در را شد شده که ما می نه هر هم و یا یک",
    "he": "את אבל או אל אם אני אשר גם הוא היא היה היו הם זה זאת יש כי כל לא לו מה מן על עם רק של",
    "hi": "और का कि की के को गया जो तक तथा तो था थी थे द्वारा ने पर में यह या ये वह से ही हुआ है हैं हो",
    "vi": "bị bởi các cái cho chưa có của cùng đã đang để đến được hay hoặc khi không là lại mà mỗi một này nếu người những như ở qua ra rằng sẽ sau tại theo "
    "thì trên trong từ và vào về với",
    "id": "ada adalah akan antara atau bagi bahwa dan dapat dari dengan di dia harus ini itu juga karena ke kepada lebih oleh pada saat sebagai sudah "
    "telah tidak untuk yang",
    "ja": "する から ない ある いる これ それ この その こと もの ため など また および には では とは",
    "zh": "一个 一些 不是 也是 以及 但是 并且 我们 他们 这个 那个 可以 没有 如果 因为 所以 或者 而且 與 和 在",
    "ko": "그 그리고 것 는 대한 또는 및 수 에 에서 와 으로 은 을 의 이 있는 하는",
    "th": "และ ของ ที่ ใน เป็น มี ได้ ไม่ จาก ให้ กับ แต่ หรือ การ ความ",
}


def is_stop_word(key: str, language: str) -> bool:
    """Whether a word, in the form of `look_up_key`, is a stop word of a language (ISO 639)."""
    return key in _keys_of(language if language in STOP_WORDS else UNKNOWN)


@cache
def _keys_of(language: str) -> frozenset[str]:
    lists = STOP_WORDS.values() if language == UNKNOWN else [STOP_WORDS[language]]
    return frozenset(look_up_key(word) for words in lists for word in words.split())
