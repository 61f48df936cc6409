"""What the prompts ask about, and how they ask."""

from __future__ import annotations

__all__ = ()

TEMPLATES = (
    "Tell me briefly about {topic}.",
    "Say something short about {topic}.",
    "Give a short description of {topic}.",
    "What is worth knowing about {topic}? Be brief.",
    "Explain {topic} to a child in a few words.",
    "Give me one piece of advice about {topic}.",
    "Write a short note about {topic}.",
    "Share one interesting fact about {topic}.",
)

_LISTED = """
apples, bananas, bread, butter, cheese, chocolate, coffee, honey, ice cream, lemons, milk, mushrooms, noodles, olive
oil, onions, pancakes, pepper, pizza, potatoes, rice, salt, soup, sugar, tea, tomatoes, vinegar, yogurt, ants, bats,
bears, bees, butterflies, camels, cats, chickens, cows, crabs, dogs, dolphins, ducks, eagles, elephants, foxes, frogs,
goats, horses, kangaroos, lions, monkeys, octopuses, owls, pandas, parrots, penguins, pigs, rabbits, salmon, sharks,
sheep, snails, snakes, spiders, squirrels, tigers, turtles, whales, wolves, bamboo, cactuses, clover, ferns, grass,
ivy, moss, oak trees, orchids, pine trees, roses, seeds, sunflowers, tulips, beaches, caves, clouds, deserts,
earthquakes, fog, forests, glaciers, islands, lakes, lightning, mountains, oceans, rain, rainbows, rivers, sand, snow,
storms, sunsets, tides, valleys, volcanoes, waterfalls, wind, winter, bicycles, boats, bridges, buses, cars,
elevators, ferries, helicopters, maps, motorcycles, planes, roads, rockets, ships, submarines, subways, taxis,
tractors, traffic lights, trains, tunnels, backpacks, batteries, books, bottles, brooms, buttons, candles, chairs,
clocks, coins, combs, cups, doors, envelopes, forks, glass, hammers, hats, keys, knives, ladders, lamps, locks,
magnets, mirrors, needles, paper, pencils, pillows, pots, ropes, scissors, shoes, soap, spoons, stairs, tables,
towels, umbrellas, wheels, windows, wool, cameras, computers, keyboards, microscopes, phones, printers, radios,
robots, satellites, telescopes, televisions, airports, bakeries, banks, castles, cinemas, farms, gardens, hospitals,
hotels, kitchens, libraries, lighthouses, markets, museums, parks, playgrounds, post offices, restaurants, schools,
theaters, zoos, baking, camping, chess, cleaning, cooking, cycling, dancing, drawing, fishing, football, gardening,
hiking, juggling, kite flying, knitting, painting, photography, poetry, reading, running, sailing, sewing, singing,
skating, skiing, sleeping, swimming, tennis, traveling, walking, writing, yoga, birthdays, dreams, friendship,
holidays, homework, jokes, kindness, laughter, letters, manners, memory, money, music, neighbors, patience, puzzles,
saving money, stories, teamwork, the moon, the stars, the sun, time, drums, flutes, guitars, pianos, trumpets,
violins, bones, ears, eyes, hands, hearts, lungs, muscles, teeth
"""
TOPICS = tuple(topic.strip() for topic in _LISTED.split(","))
