"""Lists that are known as a whole, or nearly: facts, written down by hand for this recipe. Imports no torch.

Answers are divided by semicolons; behind a stroke stand other names of the same answer. Where nobody can list all
(fruits, sports), the list is what a reader of an encyclopaedia would grant; an answer outside of it counts as wrong.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class KnownList:
    """What there is of something.

    Attributes:
        id: What tables call it.
        topic: What it lists, in the plural: "fruits".
        text: The answers, as this module writes them.
        plurals: Whether an answer may also be given in the plural: "apples".
    """

    id: str
    topic: str
    text: str
    plurals: bool = False

    @property
    def answers(self) -> list[list[str]]:
        """Names of each answer, the usual one first."""
        answers = []
        for each in self.text.split(";"):
            names = [name.strip() for name in " ".join(each.split()).split("/")]
            answers.append([*names, *(each for name in names if self.plurals for each in plurals(name))])
        return answers


def plurals(name: str) -> list[str]:
    """The regular plurals of a noun: two for one that ends in o."""
    if name.endswith("y") and name[-2] not in "aeiou":
        return [f"{name[:-1]}ies"]
    if name.endswith("o"):
        return [f"{name}s", f"{name}es"]
    return [f"{name}es" if name.endswith(("s", "x", "sh", "ch")) else f"{name}s"]


STATES = """
Alabama; Alaska; Arizona; Arkansas; California; Colorado; Connecticut; Delaware; Florida; Georgia; Hawaii; Idaho;
Illinois; Indiana; Iowa; Kansas; Kentucky; Louisiana; Maine; Maryland; Massachusetts; Michigan; Minnesota;
Mississippi; Missouri; Montana; Nebraska; Nevada; New Hampshire; New Jersey; New Mexico; New York/New York State;
North Carolina; North Dakota; Ohio; Oklahoma; Oregon; Pennsylvania; Rhode Island; South Carolina; South Dakota;
Tennessee; Texas; Utah; Vermont; Virginia; Washington/Washington State; West Virginia; Wisconsin; Wyoming
"""
EUROPE = """
Albania; Andorra; Armenia; Austria; Azerbaijan; Belarus; Belgium; Bosnia and Herzegovina/Bosnia/Bosnia & Herzegovina;
Bulgaria; Croatia; Cyprus; Czech Republic/Czechia; Denmark; Estonia; Finland; France; Georgia; Germany; Greece;
Hungary; Iceland; Ireland/Republic of Ireland; Italy; Kosovo; Latvia; Liechtenstein; Lithuania; Luxembourg; Malta;
Moldova; Monaco; Montenegro; Netherlands/Holland; North Macedonia/Macedonia; Norway; Poland; Portugal; Romania;
Russia/Russian Federation; San Marino; Serbia; Slovakia/Slovak Republic; Slovenia; Spain; Sweden; Switzerland;
Turkey/Türkiye; Ukraine; United Kingdom/UK/U.K/Great Britain/Britain; Vatican City/Vatican
"""
CAPITALS = """
Tirana; Andorra la Vella; Yerevan; Vienna; Baku; Minsk; Brussels; Sarajevo; Sofia; Zagreb; Nicosia; Prague;
Copenhagen; Tallinn; Helsinki; Paris; Tbilisi; Berlin; Athens; Budapest; Reykjavik/Reykjavík; Dublin; Rome; Pristina;
Riga; Vaduz; Vilnius; Luxembourg/Luxembourg City; Valletta; Chisinau/Chișinău; Monaco; Podgorica; Amsterdam; Skopje;
Oslo; Warsaw; Lisbon; Bucharest; Moscow; San Marino; Belgrade; Bratislava; Ljubljana; Madrid; Stockholm; Bern/Berne;
Ankara; Kyiv/Kiev; London; Vatican City
"""
AFRICA = """
Algeria; Angola; Benin; Botswana; Burkina Faso; Burundi; Cameroon; Cape Verde/Cabo Verde; Central African Republic;
Chad; Comoros; Democratic Republic of the Congo/DR Congo/DRC; Republic of the Congo/Congo; Djibouti; Egypt; Equatorial
Guinea; Eritrea; Eswatini/Swaziland; Ethiopia; Gabon; Gambia; Ghana; Guinea; Guinea-Bissau; Ivory Coast/Côte
d'Ivoire/Cote d'Ivoire; Kenya; Lesotho; Liberia; Libya; Madagascar; Malawi; Mali; Mauritania; Mauritius; Morocco;
Mozambique; Namibia; Niger; Nigeria; Rwanda; São Tomé and Príncipe/Sao Tome and Principe; Senegal; Seychelles; Sierra
Leone; Somalia; South Africa; South Sudan; Sudan; Tanzania; Togo; Tunisia; Uganda; Zambia; Zimbabwe
"""
ASIA = """
Afghanistan; Armenia; Azerbaijan; Bahrain; Bangladesh; Bhutan; Brunei; Cambodia; China/People's Republic of China;
Cyprus; Georgia; India; Indonesia; Iran; Iraq; Israel; Japan; Jordan; Kazakhstan; Kuwait; Kyrgyzstan; Laos; Lebanon;
Malaysia; Maldives; Mongolia; Myanmar/Burma; Nepal; North Korea; Oman; Pakistan; Palestine; Philippines; Qatar;
Russia; Saudi Arabia; Singapore; South Korea/Korea; Sri Lanka; Syria; Taiwan; Tajikistan; Thailand; Timor-Leste/East
Timor; Turkey/Türkiye; Turkmenistan; United Arab Emirates/UAE; Uzbekistan; Vietnam/Viet Nam; Yemen
"""
ELEMENTS = """
hydrogen/H; helium/He; lithium/Li; beryllium/Be; boron/B; carbon/C; nitrogen/N; oxygen/O; fluorine/F; neon/Ne;
sodium/Na; magnesium/Mg; aluminium/aluminum/Al; silicon/Si; phosphorus/P; sulfur/sulphur/S; chlorine/Cl; argon/Ar;
potassium/K; calcium/Ca; scandium/Sc; titanium/Ti; vanadium/V; chromium/Cr; manganese/Mn; iron/Fe; cobalt/Co;
nickel/Ni; copper/Cu; zinc/Zn; gallium/Ga; germanium/Ge; arsenic/As; selenium/Se; bromine/Br; krypton/Kr; rubidium/Rb;
strontium/Sr; yttrium/Y; zirconium/Zr; niobium/Nb; molybdenum/Mo; technetium/Tc; ruthenium/Ru; rhodium/Rh;
palladium/Pd; silver/Ag; cadmium/Cd; indium/In; tin/Sn; antimony/Sb; tellurium/Te; iodine/I; xenon/Xe;
caesium/cesium/Cs; barium/Ba; lanthanum/La; cerium/Ce; praseodymium/Pr; neodymium/Nd; promethium/Pm; samarium/Sm;
europium/Eu; gadolinium/Gd; terbium/Tb; dysprosium/Dy; holmium/Ho; erbium/Er; thulium/Tm; ytterbium/Yb; lutetium/Lu;
hafnium/Hf; tantalum/Ta; tungsten/W; rhenium/Re; osmium/Os; iridium/Ir; platinum/Pt; gold/Au; mercury/Hg; thallium/Tl;
lead/Pb; bismuth/Bi; polonium/Po; astatine/At; radon/Rn; francium/Fr; radium/Ra; actinium/Ac; thorium/Th;
protactinium/Pa; uranium/U; neptunium/Np; plutonium/Pu; americium/Am; curium/Cm; berkelium/Bk; californium/Cf;
einsteinium/Es; fermium/Fm; mendelevium/Md; nobelium/No; lawrencium/Lr; rutherfordium/Rf; dubnium/Db; seaborgium/Sg;
bohrium/Bh; hassium/Hs; meitnerium/Mt; darmstadtium/Ds; roentgenium/Rg; copernicium/Cn; nihonium/Nh; flerovium/Fl;
moscovium/Mc; livermorium/Lv; tennessine/Ts; oganesson/Og
"""
MONTHS = """
January/Jan; February/Feb; March/Mar; April/Apr; May; June/Jun; July/Jul; August/Aug; September/Sep/Sept; October/Oct;
November/Nov; December/Dec
"""
WEEKDAYS = "Monday/Mon; Tuesday/Tue; Wednesday/Wed; Thursday/Thu; Friday/Fri; Saturday/Sat; Sunday/Sun"
PLANETS = "Mercury; Venus; Earth; Mars; Jupiter; Saturn; Uranus; Neptune"
GREEK = """
alpha/α; beta/β; gamma/γ; delta/δ; epsilon/ε; zeta/ζ; eta/η; theta/θ; iota/ι; kappa/κ; lambda/λ; mu/μ; nu/ν; xi/ξ;
omicron/ο; pi/π; rho/ρ; sigma/σ; tau/τ; upsilon/υ; phi/φ; chi/χ; psi/ψ; omega/ω
"""
ZODIAC = """
Aries; Taurus; Gemini; Cancer; Leo; Virgo; Libra; Scorpio; Sagittarius; Capricorn; Aquarius; Pisces
"""
PRESIDENTS = """
George Washington/Washington; John Adams; Thomas Jefferson/Jefferson; James Madison/Madison; James Monroe/Monroe; John
Quincy Adams; Andrew Jackson/Jackson; Martin Van Buren/Van Buren; William Henry Harrison; John Tyler/Tyler; James K.
Polk/James Polk/Polk; Zachary Taylor/Taylor; Millard Fillmore/Fillmore; Franklin Pierce/Pierce; James
Buchanan/Buchanan; Abraham Lincoln/Lincoln; Andrew Johnson; Ulysses S. Grant/Ulysses Grant/Grant; Rutherford B.
Hayes/Rutherford Hayes/Hayes; James A. Garfield/James Garfield/Garfield; Chester A. Arthur/Chester Arthur/Arthur;
Grover Cleveland/Cleveland; Benjamin Harrison; William McKinley/McKinley; Theodore Roosevelt/Teddy Roosevelt; William
Howard Taft/William Taft/Taft; Woodrow Wilson/Wilson; Warren G. Harding/Warren Harding/Harding; Calvin
Coolidge/Coolidge; Herbert Hoover/Hoover; Franklin D. Roosevelt/Franklin Roosevelt/Franklin Delano Roosevelt/FDR;
Harry S. Truman/Harry Truman/Truman; Dwight D. Eisenhower/Dwight Eisenhower/Eisenhower; John F. Kennedy/John
Kennedy/JFK/Kennedy; Lyndon B. Johnson/Lyndon Johnson/LBJ; Richard Nixon/Richard M. Nixon/Nixon; Gerald Ford/Gerald R.
Ford/Ford; Jimmy Carter/Carter; Ronald Reagan/Reagan; George H. W. Bush/George H.W. Bush; Bill Clinton/William J.
Clinton/Clinton; George W. Bush; Barack Obama/Obama; Donald Trump/Donald J. Trump/Trump; Joe Biden/Joseph Biden/Biden
"""
COLOURS = """
red; orange; yellow; green; blue; purple; violet; pink; brown; black; white; grey/gray; beige; turquoise; cyan;
magenta; maroon; navy/navy blue; teal; olive/olive green; lime/lime green; gold; silver; bronze; copper; indigo;
lavender; lilac; crimson; scarlet; burgundy; coral; salmon; peach; apricot; amber; ochre; tan; khaki; cream; ivory;
mauve; plum; fuchsia; rose; ruby; emerald/emerald green; jade; mint/mint green; aqua; aquamarine; azure; sky blue;
light blue; dark blue; royal blue; cobalt/cobalt blue; charcoal; rust; sienna; umber; sepia; mustard; vermilion;
chartreuse; light green; dark green; taupe; terracotta; periwinkle; dark red; light grey/light gray; dark grey/dark
gray; hot pink; light pink; baby blue; off-white; forest green; chocolate; sapphire; cerulean; mahogany; champagne;
pearl; blonde; auburn; chestnut; hazel
"""
FRUITS = """
apple; apricot; avocado; banana; blackberry; blackcurrant; blueberry; boysenberry; cantaloupe; cherry; clementine;
coconut; cranberry; currant; date; dragon fruit/dragonfruit/pitaya; durian; elderberry; fig; gooseberry; grape;
grapefruit; guava; honeydew/honeydew melon; jackfruit; kiwi/kiwifruit/kiwi fruit; kumquat; lemon; lime; loquat;
lychee/litchi; mandarin/mandarin orange; mango; mangosteen; melon; mulberry; nectarine; olive; orange; papaya; passion
fruit/passionfruit; peach; pear; persimmon; pineapple; plantain; plum; pomegranate; pomelo; prune; quince; raisin;
raspberry; red currant/redcurrant; rambutan; satsuma; star fruit/starfruit/carambola; strawberry; tamarind; tangerine;
tomato; ugli fruit; watermelon; acai/acai berry/açaí; acerola; ackee; breadfruit; cherimoya; custard apple; feijoa;
goji berry; green apple; red apple; jujube; longan; huckleberry; nance; physalis; salak; sapodilla; soursop; tangelo;
yuzu; cloudberry; bilberry; lingonberry; crabapple/crab apple; blood orange; pawpaw; sour cherry; sweet cherry; red
grape; green grape
"""
VEGETABLES = """
artichoke; arugula/rocket; asparagus; aubergine/eggplant; bean; beet/beetroot; bell pepper; bok choy/pak choi; broad
bean; broccoli; broccolini; Brussels sprout; cabbage; carrot; cassava; cauliflower; celeriac; celery; chard/Swiss
chard; chickpea; chicory; chili/chilli/chili pepper/chilli pepper; chive; collard green/collard; corn/sweet
corn/sweetcorn/maize; courgette/zucchini; cress/watercress; cucumber; daikon; dandelion green; endive; fennel; garlic;
ginger; green bean/string bean; green onion/spring onion/scallion; horseradish; jalapeno/jalapeño; Jerusalem
artichoke; kale; kohlrabi; leek; lentil; lettuce; lima bean; mushroom; mustard green; okra; olive; onion; parsley;
parsnip; pea/green pea; pepper; potato; pumpkin; radicchio; radish; red cabbage; red onion; red pepper; green pepper;
rhubarb; romaine/romaine lettuce; rutabaga/swede; shallot; snow pea; sorrel; soybean; spinach; squash; butternut
squash; sweet pepper; sweet potato; taro; tomato; tomatillo; turnip; turnip green; water chestnut; yam; acorn squash;
bamboo shoot; bean sprout; capsicum; coriander; iceberg lettuce; kidney bean; black bean; cherry tomato; fava bean;
edamame
"""
INSTRUMENTS = """
accordion; alto saxophone; bagpipe; balalaika; bandoneon; banjo; bass/bass guitar; double bass/contrabass/upright
bass; bass drum; bassoon; bongo/bongo drum; bouzouki; bugle; castanet; celesta; cello/violoncello; chime; clarinet;
clavichord; concertina; conga; cor anglais/English horn; cornet; cymbal; didgeridoo; djembe; drum; drum kit/drum set;
dulcimer; erhu; euphonium; fiddle; fife; flugelhorn; flute; French horn; glockenspiel; gong; guitar; acoustic guitar;
electric guitar; harmonica; harmonium; harp; harpsichord; horn; hurdy-gurdy; kalimba; kazoo; keyboard; koto; lute;
lyre; mandolin; maraca; marimba; melodica; oboe; ocarina; organ; pan flute/panpipe/pan pipe; percussion; piano; grand
piano; electric piano; piccolo; pipe organ; recorder; saxophone/sax; tenor saxophone; shakuhachi; shamisen; sitar;
snare drum; sousaphone; steel drum/steelpan; synthesizer/synthesiser/synth; tabla; tambourine; theremin;
timpani/kettledrum; triangle; trombone; trumpet; tuba; ukulele; vibraphone; viola; viol; violin; whistle; tin whistle;
xylophone; zither; sarod; veena; oud; pipa; guzheng; bodhran; cajon; cowbell; theorbo; santoor
"""
ANIMALS = """
aardvark; alpaca; anteater; antelope; ape; armadillo; baboon; badger; bat; bear; beaver; bison; boar/wild boar;
bobcat; buffalo; camel; caribou; cat; cattle; cheetah; chimpanzee/chimp; chinchilla; chipmunk; cougar/mountain
lion/puma; cow; coyote; deer; dingo; dog; dolphin; donkey; dormouse; duck-billed platypus/platypus; echidna; elephant;
elk; ermine/stoat; ferret; fox; gazelle; gerbil; gibbon; giraffe; gnu/wildebeest; goat; gopher; gorilla;
groundhog/woodchuck; guinea pig; hamster; hare; hedgehog; hippopotamus/hippo; horse; hyena; ibex; jackal; jaguar;
kangaroo; koala/koala bear; lemur; leopard; lion; llama; lynx; manatee; marmot; marten; meerkat; mink; mole; mongoose;
monkey; moose; mouse/mice; mule; muskrat; ocelot; okapi; opossum/possum; orangutan; orca/killer whale; otter; ox/oxen;
panda/giant panda; panther; pig; polar bear; porcupine; porpoise; prairie dog; pronghorn; rabbit; raccoon; rat; red
fox; reindeer; rhinoceros/rhino; sea lion; seal; sea otter; sheep; shrew; skunk; sloth; snow leopard; squirrel; tapir;
Tasmanian devil; tiger; vole; vicuna; wallaby; walrus; warthog; weasel; whale; blue whale; humpback whale; sperm
whale; wolf/wolves; wolverine; wombat; yak; zebra; grizzly bear; black bear; brown bear; human; arctic fox; gray
wolf/grey wolf; bull
"""
SPORTS = """
American football/football; archery; athletics/track and field; badminton; baseball; basketball; beach volleyball;
biathlon; bobsleigh/bobsled; bowling; boxing; canoeing; cheerleading; climbing/rock climbing; cricket; croquet;
cross-country skiing; curling; cycling; dance; darts; discus/discus throw; diving; dodgeball; equestrian; fencing;
field hockey; figure skating; fishing; fly fishing; frisbee/ultimate frisbee/ultimate; golf; gymnastics; handball;
hang gliding; high jump; hiking; hockey/ice hockey; horse racing; horseback riding/horse riding; hurdling; ice
skating; jai alai; javelin/javelin throw; jogging; judo; jujitsu/jiu-jitsu; karate; kayaking; kickboxing; kitesurfing;
lacrosse; long jump; luge; marathon; martial arts; mixed martial arts/MMA; motocross; motor racing/auto racing/car
racing; mountain biking; netball; orienteering; paintball; parkour; pickleball; ping pong/table tennis; pole vault;
polo; pool; billiards; racquetball; rafting; rowing; rugby; rugby league; running; sailing; scuba diving; shooting;
shot put; skateboarding; skating; skiing; alpine skiing; ski jumping; skydiving; sledding; snooker; snowboarding;
soccer/association football; softball; speed skating; sprinting; squash; sumo/sumo wrestling; surfing; swimming;
synchronized swimming; taekwondo; tennis; trampolining; triathlon; tug of war; volleyball; walking; water polo; water
skiing; weightlifting/weight lifting; windsurfing; wrestling; yachting; Formula One/Formula 1; rodeo
"""

LISTS = (
    KnownList("us-states", "US states", STATES),
    KnownList("fruits", "fruits", FRUITS, plurals=True),
    KnownList("months", "months of the year", MONTHS),
    KnownList("chemical-elements", "chemical elements", ELEMENTS),
    KnownList("european-countries", "countries in Europe", EUROPE),
    KnownList("colours", "colours", COLOURS, plurals=True),
    KnownList("planets", "planets of the solar system", PLANETS),
    KnownList("musical-instruments", "musical instruments", INSTRUMENTS, plurals=True),
    KnownList("mammals", "mammals", ANIMALS, plurals=True),
    KnownList("weekdays", "days of the week", WEEKDAYS),
    KnownList("vegetables", "vegetables", VEGETABLES, plurals=True),
    KnownList("european-capitals", "capital cities in Europe", CAPITALS),
    KnownList("sports", "sports", SPORTS, plurals=True),
    KnownList("african-countries", "countries in Africa", AFRICA),
    KnownList("greek-letters", "letters of the Greek alphabet", GREEK),
    KnownList("us-presidents", "presidents of the United States", PRESIDENTS),
    KnownList("asian-countries", "countries in Asia", ASIA),
    KnownList("zodiac-signs", "signs of the zodiac", ZODIAC),
)
