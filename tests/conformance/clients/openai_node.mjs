// OpenAI's own client for JavaScript.
import {
  apiKey, baseURL, longer, maxTokens, messages, model, question, report, schema, tool,
} from "./checks.mjs";
import OpenAI from "openai";

const client = new OpenAI({ baseURL, apiKey });
const settings = { model, max_tokens: maxTokens, temperature: 0 };

await report({
  async image() {
    const reply = await client.chat.completions.create({
      messages: messages(question),
      dyvte: { max_risk: 0.01 },
      ...settings,
    });
    return reply.choices[0].message.content;
  },
  async stream() {
    const pieces = [];
    const chunks = await client.chat.completions.create({
      messages: messages(longer),
      stream: true,
      ...settings,
    });
    for await (const chunk of chunks) pieces.push(chunk.choices[0]?.delta.content ?? "");
    return pieces;
  },
  async tools() {
    const reply = await client.chat.completions.create({
      messages: messages(question),
      tools: [{ type: "function", function: { name: tool, parameters: schema, strict: true } }],
      tool_choice: "required",
      ...settings,
    });
    const call = reply.choices[0].message.tool_calls[0].function;
    return [call.name, JSON.parse(call.arguments)];
  },
  async structured() {
    const reply = await client.chat.completions.parse({
      messages: messages(question),
      response_format: {
        type: "json_schema",
        json_schema: { name: "thing", schema, strict: true },
      },
      ...settings,
    });
    return JSON.parse(reply.choices[0].message.content);
  },
});
