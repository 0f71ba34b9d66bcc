// The official TypeScript client 1.x (2025-11-25), unchanged: prints what it has seen as JSON.
//
//     node typescript_1.mjs (URL | COMMAND ARGUMENTS…)
import { Client } from "@modelcontextprotocol/sdk/client/index.js";
import { StdioClientTransport } from "@modelcontextprotocol/sdk/client/stdio.js";
import { StreamableHTTPClientTransport } from "@modelcontextprotocol/sdk/client/streamableHttp.js";
import { CallToolResultSchema, ElicitRequestSchema } from "@modelcontextprotocol/sdk/types.js";

const [target, ...args] = process.argv.slice(2);
const transport = target.startsWith("http")
  ? new StreamableHTTPClientTransport(new URL(target))
  : new StdioClientTransport({ command: target, args, env: process.env, stderr: "inherit" });

const asked = [];
const client = new Client({ name: "official", version: "1" }, { capabilities: { elicitation: { form: {} } } });
client.setRequestHandler(ElicitRequestSchema, async (request) => {
  asked.push(request.params);
  return { action: "accept", content: { name: "Ann" } };
});

async function refused(work) {
  try {
    await work;
    return {};
  } catch (error) {
    return { code: error.code, message: error.message };
  }
}

async function plain() {
  const progress = [];
  const added = await client.callTool({ name: "add", arguments: { a: 1, b: 2 } });
  const walked = await client.callTool({ name: "walk", arguments: { steps: 8 } }, undefined, {
    onprogress: (heard) => progress.push(heard),
    resetTimeoutOnProgress: true,
  });
  const failed = await client.callTool({ name: "tool_error" });
  const greeted = await client.callTool({ name: "greet" });
  return {
    structured: added.structuredContent,
    walked: walked.content[0].text,
    progress,
    error: [failed.isError, failed.content[0].text],
    protocol_error: await refused(client.callTool({ name: "protocol_error" })),
    greeted: greeted.content[0].text,
    asked: asked.splice(0),
  };
}

async function followed(name, args_) {
  const seen = { statuses: [] };
  const stream = client.experimental.tasks.callToolStream({ name, arguments: args_ }, CallToolResultSchema, {
    task: { ttl: 600_000 },
  });
  for await (const message of stream) {
    if (message.type === "taskCreated") seen.created = message.task;
    else if (message.type === "taskStatus") seen.statuses.push(message.task.status);
    else if (message.type === "result") seen.result = message.result;
    else seen.error = String(message.error);
  }
  return seen;
}

async function tasks() {
  const experimental = client.experimental.tasks;
  const added = await followed("add", { a: 2, b: 3 });
  const greeted = await followed("greet", {});
  const listed = await experimental.listTasks();
  const long = experimental.callToolStream({ name: "sleep", arguments: { seconds: 600 } }, CallToolResultSchema, {
    task: { ttl: 600_000 },
  });
  const { value } = await long.next();
  const cancelled = await experimental.cancelTask(value.task.taskId);
  return {
    added,
    greeted,
    asked: asked.splice(0),
    listed: listed.tasks.map((task) => task.taskId),
    cancelled: [cancelled.status, (await experimental.getTask(value.task.taskId)).status],
    unknown: await refused(experimental.getTask("tsk_unknown")),
  };
}

await client.connect(transport);
const tools = await client.listTools();
const seen = {
  server: client.getServerVersion().name,
  tasks_capability: client.getServerCapabilities().tasks !== undefined,
  support: Object.fromEntries(tools.tools.map((tool) => [tool.name, tool.execution?.taskSupport])),
  plain: await plain(),
  tasks: await tasks(),
};
await client.close();
console.log(JSON.stringify(seen));
process.exit(0);
