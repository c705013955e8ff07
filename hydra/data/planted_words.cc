// SPDX-License-Identifier: Apache-2.0
// The list of common words that are planted into texts.
#include "hydra/data/planted_words.h"

namespace hydra {
namespace {

constexpr std::string_view kWords =
    "able acid acre actor adult agent air alarm album alley amber angle animal ankle answer apple apron arch "
    "arena arm army arrow artist ash atlas attic aunt autumn avenue award axis baby back bacon badge bag "
    "baker ball bamboo band bank bar barn barrel base basin basket bath battle bay beach bead beam bean bear "
    "beard beast bed bee beef bell belt bench berry bike bird birth bishop blade blanket block blood bloom "
    "board boat body bolt bone book boot border boss bottle bottom bowl box boy branch brass bread breeze "
    "brick bride bridge broom brother brush bubble bucket bull bullet bus bush butter button cabin cable "
    "cage cake calf camel camera camp canal candle cannon canoe canvas cap captain car card carpet carrot "
    "cart castle cat cattle cave cedar ceiling cell cellar chain chair chalk chapel charm chart cheek cheese "
    "cherry chest chicken chief child chimney chin choir church circle city clay clerk cliff clock cloth "
    "cloud clown club coach coal coast coat coffee coin collar color column comb comet copper coral cord "
    "cork corn corner cotton couch country couple court cousin cover cow cradle crane cream creek crew "
    "cricket crop cross crowd crown crystal cube cup curtain curve cushion daisy dance dark daughter dawn "
    "day deck deer desert desk dew diamond dinner dish ditch doctor dog doll dolphin donkey door dove dragon "
    "drain drawer dream dress drum duck dusk dust eagle ear earth east edge egg elbow elephant elm empire "
    "engine evening eye fabric face factory falcon family farm farmer father feast feather fence fern ferry "
    "fever field fig finger fire fish fist flag flame flask fleet flock flood floor flour flower flute foam "
    "fog food foot forest fork fort fountain fox frame friend frog frost fruit fur garage garden garlic gate "
    "ghost giant ginger girl glacier glass globe glove goat gold goose grain grandson granite grape grass "
    "gravel green ground group guard guest guitar gulf hail hair hall hammer hand harbor harp harvest hat "
    "hawk hay head heart heat hedge heel helmet hen herb hero hill hip hole home honey hook horn horse "
    "hospital hotel hour house hunter hut ice inch ink insect iron island ivory ivy jacket jar jaw jewel job "
    "joint judge juice jungle jury kettle key kid king kitchen kite kitten knee knife knight knot lace "
    "ladder lady lake lamb lamp lance land lane lantern lawn lawyer lead leaf leather leg lemon letter "
    "library lid light lily limb lime line linen lion lip list lizard loaf lock log lot lumber lunch lung "
    "machine magnet maid mail man mango mantle map maple marble market marsh mask mast master mat match "
    "meadow meal meat medal melon member metal mile milk mill miner mint mirror mist moon moose moss moth "
    "mother motor mountain mouse mouth mud mule muscle museum music nail name napkin neck needle nephew nest "
    "net night noise noon north nose note novel nurse nut oak oar oasis oat ocean office oil olive onion "
    "opera orange orbit orchard organ otter oven owl owner ox oxygen page paint pair palace palm pan panther "
    "paper parade parcel parent park parrot party pasta path patrol peach peak pear pearl pebble pen pencil "
    "pepper person phone photo piano picnic picture pie pig pigeon pillow pilot pin pine pipe pirate pistol "
    "pit plain planet plank plant plaster plate player plow plum pocket poem poet point pole police pond "
    "pony pool porch port post pot potato powder prince print prison prize pulse pump pumpkin puppy purse "
    "quail quarry queen quill quilt rabbit radar radio raft rail rain ranch rat raven ray reef ribbon rice "
    "rider rifle ring river road robe robin robot rock rocket rod roof room root rope rose rubber ruby rug "
    "rule saddle sage sail sailor salad salmon salt sand sauce saw scale scarf school screen sea seal seat "
    "seed servant shadow shark sheep shelf shell shepherd shield ship shirt shoe shop shore shoulder shovel "
    "sign silk silver singer sink sister skate skin skirt skull sky sleeve slope smoke snail snake snow soap "
    "soldier son song soup south spark sparrow spear spider spine sponge spoon spring square stable stage "
    "stairs star station statue steam steel stem step stick stone stool storm story stove straw stream "
    "street string student sugar suit summer sun swallow swan sword table tail tailor tank tape tea teacher "
    "team tear temple tent thread throat throne thumb thunder ticket tide tiger timber tin tire toast toe "
    "tomato tongue tool tooth torch tower town toy track trail train tray treasure tree tribe truck trumpet "
    "trunk tube tulip tunnel turkey turtle twig uncle valley van vase vault vein velvet vest victim village "
    "vine violin voice volcano voyage wagon waist waiter wall walnut warden water wave wax weasel weather "
    "web wedding week well west whale wheat wheel whip whistle widow wife willow wind window wine wing "
    "winter wire wolf woman wood wool word worker world worm wrist writer yard year yeast yellow zebra zinc "
    "zone ";

}  // namespace

std::vector<std::string> PlantedWords(ItemSplit split) {
  std::vector<std::string> words;
  for (size_t begin = 0; begin < kWords.size();) {
    const size_t end = kWords.find(' ', begin);
    std::string word(kWords.substr(begin, end - begin));
    if (SplitOfName("word " + word) == split) words.push_back(std::move(word));
    begin = end + 1;
  }
  return words;
}

int64_t PlantedNumber(ItemSplit split, Rng& rng) {
  constexpr int64_t kLow = 10000, kNumbers = 90000;
  for (;;) {
    const auto number = kLow + static_cast<int64_t>(rng.Below(kNumbers));
    if (SplitOfName("number " + std::to_string(number)) == split) return number;
  }
}

}  // namespace hydra
