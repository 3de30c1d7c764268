// Vercel's AI SDK with its provider for OpenAI-compatible servers.
import {
  apiKey, baseURL, colors, longer, maxTokens, model, picture, question, report, shapes, tool,
} from "./checks.mjs";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, streamText, tool as makeTool } from "ai";
import { z } from "zod";

const provider = createOpenAICompatible({
  name: "dyvte",
  baseURL,
  apiKey,
  supportsStructuredOutputs: true,
});
const thing = z.object({ color: z.enum(colors), shape: z.enum(shapes) });
const ask = (text) => ({
  model: provider(model),
  temperature: 0,
  maxOutputTokens: maxTokens,
  messages: [
    {
      role: "user",
      content: [
        { type: "image", image: picture, mediaType: "image/png" },
        { type: "text", text },
      ],
    },
  ],
});

await report({
  async image() {
    return (await generateText(ask(question))).text;
  },
  async stream() {
    const pieces = [];
    for await (const piece of streamText(ask(longer)).textStream) pieces.push(piece);
    return pieces;
  },
  async tools() {
    const paint = makeTool({ description: "Paint a thing.", inputSchema: thing });
    const reply = await generateText({
      ...ask(question),
      tools: { [tool]: paint },
      toolChoice: "required",
    });
    return [reply.toolCalls[0].toolName, reply.toolCalls[0].input];
  },
  async structured() {
    const reply = await generateText({ ...ask(question), output: Output.object({ schema: thing }) });
    return reply.output;
  },
});
