"""Words by which English texts mention groups of people, by axis. Written from general knowledge, as starting points.

What to cover: pronouns and axes as in Llama 2 (Touvron et al. 2023, section 4.1) and PaLM (Chowdhery et al. 2022,
section 10.1); countries of the United Nations; religions with most followers (Pew Research Center 2012, "The global
religious landscape"); terms of the UN convention on the rights of persons with disabilities and of common glossaries.

`~` behind a word: it has other meanings (black, blind, straight) and counts only right before a word for people.
"""

from __future__ import annotations

PRONOUNS: dict[str, dict[str, str]] = {"en": {
    "she": "she her hers herself",
    "he": "he him his himself",
    "they": "they them their theirs themselves themself",
}}
"""`they` says nothing of gender; mostly it stands for several, or for things."""
CONTRACTIONS: dict[str, tuple[str, ...]] = {"en": ("'s", "'d", "'ll", "'ve", "'re", "'")}
"""What may hang on a word without changing it."""
PEOPLE: dict[str, str] = {"en": """
people person persons man men woman women boy boys girl girls child children kid kids baby babies adult adults youth
teen teens teenager teenagers guy guys lady ladies gentleman gentlemen student students pupil pupils worker workers
employee employees voter voters citizen citizens resident residents patient patients american americans british
community communities family families couple couples mother mothers father fathers parent parents son sons daughter
daughters brother brothers sister sisters husband wife folk folks individual individuals population populations
neighborhood neighborhoods neighbourhood actor actress author writer artist athlete officer soldier soldiers veteran
veterans friend friends leader leaders teacher teachers immigrant immigrants
"""}

AXES: dict[str, dict[str, str]] = {"en": {
    "gender": """
woman; women; girl; girls; lady; ladies; female; females; mother; mothers; mom; moms; mum; daughter; daughters;
sister; sisters; wife; wives; grandmother; aunt; aunts; niece; queen; actress; businesswoman; chairwoman; girlfriend;
man; men; boy; boys; gentleman; gentlemen; male; males; father; fathers; dad; dads; son; sons; brother; brothers;
husband; husbands; grandfather; uncle; uncles; nephew; king; businessman; chairman; boyfriend; transgender; trans~;
trans woman; trans man; trans women; trans men; transsexual; cisgender; nonbinary; non binary; genderqueer;
genderfluid; gender fluid; agender; intersex; androgynous; two spirit
""",
    "orientation": """
gay; gays; lesbian; lesbians; bisexual; bisexuals; homosexual; homosexuals; homosexuality; heterosexual;
heterosexuals; queer; asexual; pansexual; lgbt; lgbtq; lgbtqia; straight~; same sex couple; same sex couples; same sex
marriage
""",
    "religion": """
christian; christians; christianity; catholic; catholics; catholicism; protestant; protestants; orthodox christian;
orthodox christians; evangelical; evangelicals; baptist; baptists; methodist; methodists; lutheran; lutherans;
anglican; anglicans; presbyterian; presbyterians; pentecostal; mormon; mormons; latter day saint; latter day saints;
quaker; quakers; jehovah's witness; jehovah's witnesses; muslim; muslims; islam; islamic; sunni; sunnis; shia; shiite;
shiites; sufi; jew; jews; jewish; judaism; orthodox jew; orthodox jews; hindu; hindus; hinduism; buddhist; buddhists;
buddhism; sikh; sikhs; sikhism; jain; jains; jainism; taoist; taoism; daoist; confucian; shinto; zoroastrian;
zoroastrians; bahai; baha'i; pagan; pagans; wiccan; druze; yazidi; rastafarian; atheist; atheists; atheism; agnostic;
agnostics; secular~; spiritual~
""",
    "race_ethnicity": """
african american; african americans; black~; blacks; white~; whites; caucasian; caucasians; asian american; asian
americans; latino; latinos; latina; latinas; latinx; hispanic; hispanics; chicano; chicana; mexican american; mexican
americans; native american; native americans; american indian; american indians; first nations; inuit; metis;
indigenous; aboriginal; aboriginals; maori; pacific islander; pacific islanders; alaska native; alaska natives; native
hawaiian; native hawaiians; arab; arabs; middle eastern; kurd; kurds; kurdish; roma~; romani; gypsy; gypsies;
biracial; multiracial; mixed race; people of color; person of color; women of color; men of color; people of colour;
brown~; east asian; south asian; southeast asian; afro caribbean; ashkenazi; sephardic; han chinese; uyghur; uyghurs;
tamil; tamils; bengali; punjabi; zulu; yoruba; igbo; hausa; tutsi; hutu; somali; slavic; nordic; minority~; minorities
""",
    "nationality": """
american; americans; canadian; canadians; mexican; mexicans; cuban; cubans; puerto rican; puerto ricans; dominican;
dominicans; haitian; haitians; jamaican; jamaicans; guatemalan; guatemalans; honduran; hondurans; salvadoran;
salvadorans; nicaraguan; nicaraguans; costa rican; costa ricans; panamanian; colombian; colombians; venezuelan;
venezuelans; ecuadorian; ecuadorians; peruvian; peruvians; bolivian; bolivians; brazilian; brazilians; chilean;
chileans; argentine; argentinian; argentinians; uruguayan; paraguayan; british; englishman; englishmen; englishwoman;
scottish; scot; scots; welsh; irish; irishman; irishmen; french; frenchman; frenchmen; frenchwoman; german; germans;
austrian; austrians; swiss; dutch; dutchman; belgian; belgians; italian; italians; spanish; spaniard; spaniards;
portuguese; greek; greeks; swedish; swede; swedes; norwegian; norwegians; danish; dane; danes; finnish; finn; finns;
icelandic; polish~; pole~; poles~; czech; czechs; slovak; slovaks; hungarian; hungarians; romanian; romanians;
bulgarian; bulgarians; serbian; serb; serbs; croatian; croat; croats; bosnian; bosnians; slovenian; albanian;
albanians; macedonian; ukrainian; ukrainians; russian; russians; belarusian; lithuanian; latvian; estonian; georgian;
armenian; armenians; azerbaijani; turkish; turk; turks; iranian; iranians; iraqi; iraqis; syrian; syrians; lebanese;
israeli; israelis; palestinian; palestinians; jordanian; saudi; saudis; yemeni; egyptian; egyptians; libyan; libyans;
tunisian; tunisians; algerian; algerians; moroccan; moroccans; sudanese; ethiopian; ethiopians; eritrean; kenyan;
kenyans; ugandan; ugandans; tanzanian; rwandan; rwandans; congolese; nigerian; nigerians; ghanaian; ghanaians;
senegalese; liberian; cameroonian; angolan; zambian; zimbabwean; zimbabweans; mozambican; south african; south
africans; african; africans; european; europeans; asian; asians; afghan; afghans; pakistani; pakistanis; indian;
indians; bangladeshi; bangladeshis; sri lankan; sri lankans; nepali; nepalese; tibetan; tibetans; chinese; taiwanese;
japanese; korean; koreans; north korean; north koreans; south korean; south koreans; mongolian; vietnamese; thai;
thais; cambodian; cambodians; laotian; burmese; malaysian; malaysians; singaporean; indonesian; indonesians; filipino;
filipinos; filipina; australian; australians; new zealander; new zealanders; immigrant; immigrants; refugee; refugees;
migrant; migrants; asylum seeker; asylum seekers; undocumented~
""",
    "age": """
infant; infants; toddler; toddlers; child; children; kid; kids; teenager; teenagers; teenage; teen; teens; adolescent;
adolescents; youth; youths; young~; young adult; young adults; millennial; millennials; middle aged; adult; adults;
old~; older~; elderly; senior~; senior citizen; senior citizens; retiree; retirees; pensioner; pensioners; retired~;
octogenarian; centenarian; year old~
""",
    "ability": """
disabled; disability; disabilities; handicapped; able bodied; deaf; hard of hearing; hearing impaired; blind~;
blindness; visually impaired; low vision; paralyzed; paralysed; paraplegic; quadriplegic; amputee; amputees;
wheelchair user; wheelchair users; wheelchair bound; in a wheelchair; autistic; autism; asperger's; adhd; dyslexic;
dyslexia; neurodivergent; down syndrome; down's syndrome; cerebral palsy; epileptic; epilepsy; mentally ill; mental
illness; bipolar; schizophrenic; schizophrenia; depressed~; intellectually disabled; intellectual disability; learning
disability; learning disabilities; special needs; chronically ill; mute~
""",
}}
