// Four pictures to begin with, drawn by the renderer of the demo model's world, and questions that
// this model answers.

import { $, make, show } from "./dom.js";

const EXAMPLES = [
  {
    file: "circle-and-square",
    alt: "A red circle and a blue square",
    ask: ["What color is the circle?", "Is there a blue square?", "Describe the picture."],
  },
  {
    file: "star",
    alt: "A red star above a white ellipse",
    ask: ["What color is the star?", "What is below the star?", "Describe the picture."],
  },
  {
    file: "hearts",
    alt: "Three hearts on black",
    ask: [
      "How many hearts are there?",
      "Which is bigger, the pink heart or the purple heart?",
      "Describe the picture.",
    ],
  },
  {
    file: "heart-and-circle",
    alt: "A yellow heart, a black circle and a green triangle",
    ask: ["Where is the green triangle?", "How big is the heart?", "Describe the picture."],
  },
];

function write(question) {
  $("question").value = question;
  $("question").dispatchEvent(new Event("input", { bubbles: true }));
}

function suggest(questions) {
  $("suggestions").replaceChildren(...questions.map((question) => (
    make("button.chip", { type: "button", onclick: () => write(question) }, question)
  )));
  show($("suggestions"), true);
}

/** The row of examples; choosing one fills the tray and the question. */
export function offerExamples(tray) {
  const address = (example) => `playground/examples/${example.file}.png`;
  const choose = async (example) => {
    await tray.replace(address(example), example.alt);
    suggest(example.ask);
    write(example.ask[0]);
  };
  $("examples").append(
    make("span", {}, "Or try"),
    ...EXAMPLES.map((example) => make("button", {
      type: "button",
      title: example.alt,
      "aria-label": `Example: ${example.alt}`,
      onclick: () => choose(example),
    }, make("img", { src: address(example), alt: "", width: 44, height: 44 }))),
  );
}
