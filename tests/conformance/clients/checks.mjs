// What checks.py is to Python: the same questions, the same judgement, nothing but Node's own.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";

export const baseURL = process.env.CLIENT_BASE_URL;
export const apiKey = process.env.CLIENT_API_KEY;
export const model = "demo";
export const picture = readFileSync(process.env.CLIENT_PICTURE);
export const dataURL = `data:image/png;base64,${picture.toString("base64")}`;
export const question = "What color is the circle?";
export const longer = "Describe the picture.";
export const maxTokens = 256;
export const colors = ["red", "green", "blue"];
export const shapes = ["circle", "square"];
export const tool = "paint";
export const schema = {
  type: "object",
  properties: {
    color: { type: "string", enum: colors },
    shape: { type: "string", enum: shapes },
  },
  required: ["color", "shape"],
  additionalProperties: false,
};

export const messages = (text) => [
  {
    role: "user",
    content: [
      { type: "image_url", image_url: { url: dataURL } },
      { type: "text", text },
    ],
  },
];

async function wholeAnswer() {
  const reply = await fetch(`${baseURL}/chat/completions`, {
    method: "POST",
    headers: { "Content-Type": "application/json", Authorization: `Bearer ${apiKey}` },
    body: JSON.stringify({
      model,
      messages: messages(longer),
      temperature: 0,
      max_tokens: maxTokens,
    }),
  });
  return (await reply.json()).choices[0].message.content;
}

function fits(thing) {
  assert.deepEqual(Object.keys(thing).sort(), ["color", "shape"]);
  assert.ok(colors.includes(thing.color) && shapes.includes(thing.shape), JSON.stringify(thing));
}

const judges = {
  image: (text) => assert.ok(text.includes("red"), `got ${text}`),
  stream: async (pieces) => {
    assert.equal(pieces.join(""), await wholeAnswer());
    assert.ok(pieces.filter(Boolean).length > 1, "one piece is no stream");
  },
  tools: ([name, args]) => {
    assert.equal(name, tool);
    fits(args);
  },
  structured: fits,
};

export async function report(offered) {
  const results = {};
  for (const [name, ask] of Object.entries(offered)) {
    try {
      await judges[name](await ask());
      results[name] = "pass";
    } catch (error) {
      console.error(error);
      results[name] = `${error.name}: ${error.message}`;
    }
  }
  console.log(JSON.stringify(results));
}
