// Loaded into pi by the `pi` adapter: asks before tools that change something, and offers the tools of the task.
// Questions go through pi's own dialogue to the driver; tools go to the MCP endpoint of the sandbox.

const ASKED = new Set(["bash", "edit", "write"]);

async function call(method: string, params: unknown, signal?: AbortSignal): Promise<any> {
  const response = await fetch(process.env.FLAKES_MCP_URL!, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      accept: "application/json, text/event-stream",
      authorization: `Bearer ${process.env.FLAKES_MCP_TOKEN}`,
    },
    body: JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }),
    signal,
  });
  const answer = await response.json();
  if (answer.error) throw new Error(answer.error.message);
  return answer.result;
}

export default async function (pi: any) {
  if (process.env.FLAKES_ASK) {
    pi.on("tool_call", async (event: any, ctx: any) => {
      if (!ASKED.has(event.toolName)) return undefined;
      const asked = JSON.stringify({ id: event.toolCallId, tool: event.toolName, input: event.input });
      const answer = (await ctx.ui.input(asked)) ?? "deny";
      if (answer === "allow") return undefined;
      return { block: true, reason: `Not allowed by the owner of this task. ${answer.slice(5)}`.trim() };
    });
  }
  if (!process.env.FLAKES_MCP_URL) return;
  for (const tool of (await call("tools/list", {})).tools) {
    pi.registerTool({
      name: tool.name,
      label: tool.name,
      description: tool.description,
      parameters: tool.inputSchema,
      async execute(_id: string, params: unknown, signal?: AbortSignal) {
        const result = await call("tools/call", { name: tool.name, arguments: params ?? {} }, signal);
        if (result.isError) throw new Error(result.content.map((part: any) => part.text).join("\n"));
        return { content: result.content, details: {} };
      },
    });
  }
}
