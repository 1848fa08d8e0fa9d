"""Top-level domains: every country's, and the generic ones under which people have addresses.

From the IANA root zone. One that is missing here costs the addresses under it; one too many makes `a@b.x` in a program
an address.
"""

from __future__ import annotations

_COUNTRIES = (
    "ac ad ae af ag ai al am ao aq ar as at au aw ax az ba bb bd be bf bg bh bi bj bm bn bo br bs bt bw by bz ca cc "
    "cd cf cg ch ci ck cl cm cn co cr cu cv cw cx cy cz de dj dk dm do dz ec ee eg er es et eu fi fj fk fm fo fr ga "
    "gb gd ge gf gg gh gi gl gm gn gp gq gr gs gt gu gw gy hk hm hn hr ht hu id ie il im in io iq ir is it je jm jo "
    "jp ke kg kh ki km kn kp kr kw ky kz la lb lc li lk lr ls lt lu lv ly ma mc md me mg mh mk ml mm mn mo mp mq mr "
    "ms mt mu mv mw mx my mz na nc ne nf ng ni nl no np nr nu nz om pa pe pf pg ph pk pl pm pn pr ps pt pw py qa re "
    "ro rs ru rw sa sb sc sd se sg sh si sj sk sl sm sn so sr ss st su sv sx sy sz tc td tf tg th tj tk tl tm tn to "
    "tr tt tv tw tz ua ug uk us uy uz va vc ve vg vi vn vu wf ws ye yt za zm zw"
)
_GENERIC = (
    "com org net edu gov mil int arpa info biz name pro aero coop museum jobs mobi travel tel cat asia post xxx app "
    "dev page blog cloud online site website web store shop tech xyz top club icu live email mail news media agency "
    "digital solutions services systems network technology software company group international world global center "
    "community foundation institute academy school university college education science health clinic care dental "
    "doctor hospital law legal attorney lawyer finance financial bank money capital fund insurance tax consulting "
    "management partners ventures enterprises industries construction engineering build house homes estate "
    "properties property land farm garden restaurant cafe bar pub wine beer coffee pizza kitchen recipes food "
    "catering hotel tours flights vacations fashion clothing jewelry shoes boutique art gallery photo photos "
    "photography pictures graphics design studio video film movie music band audio games game play fun win bet "
    "casino poker sport fitness yoga run bike football golf team fan fans social chat wiki space zone city town "
    "london berlin paris nyc tokyo amsterdam wien hamburg koeln bayern ruhr saarland swiss scot wales cymru irish "
    "vlaanderen brussels quebec africa capetown joburg durban melbourne sydney istanbul moscow barcelona madrid eus "
    "gal bzh alsace corsica tirol vegas miami boston kiwi earth eco green solar energy bio guru expert ninja rocks "
    "cool best one vip plus today life love family baby kids mom dating singles wedding church faith bible ngo ong "
    "charity support help foundation ltd llc inc gmbh srl sarl bv work works career careers jobs press report "
    "review reviews guide directory link click host hosting domains server codes computer mobile phone camera data "
    "ist ink tips tools tattoo toys pet dog horse auto car cars taxi delivery express trade market markets exchange "
    "forex credit loan loans cash gold vote republican democrat gay lgbt amex bbc google apple microsoft amazon aws "
    "youtube ibm bmw cern ceo cpa med mba phd esq dad nexus foo zip mov ai"
)
TOP_LEVEL = frozenset(f"{_COUNTRIES} {_GENERIC}".split()) | {
    "рф", "укр", "бел", "срб", "бг", "ελ", "中国", "中國", "香港", "台灣", "台湾", "新加坡", "한국", "ไทย", "भारत",
    "امارات", "السعودية", "مصر", "ایران", "ישראל", "გე", "հայ", "қаз", "мкд", "мон", "рус", "сайт", "онлайн", "москва",
}
