"""Tools of MCP servers. They need the extra: `pip install 'kimi_agent[mcp]'`."""

from .servers import MCPTool, MCPToolset, mcp_tools

__all__ = ["MCPTool", "MCPToolset", "mcp_tools"]
