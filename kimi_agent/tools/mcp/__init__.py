"""Tools of MCP servers. They need the extra: `pip install 'kimi_agent[mcp]'`."""

from .configs import MCPServerError
from .servers import MCPTool, MCPToolset, mcp_tools

__all__ = ["MCPServerError", "MCPTool", "MCPToolset", "mcp_tools"]
