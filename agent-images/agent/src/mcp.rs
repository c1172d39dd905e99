//! `factory-agent mcp`: the report as a tool, and what a review looks at, for engines that
//! speak the Model Context Protocol. It serves its standard input and output, as a child of the engine.

use crate::{
    look::{LOOKS, Look},
    places::Places,
    report,
};
use factory_core::{
    grant::Role,
    report::schema,
    wire::{RunFile, RunTask},
};
use rmcp::{
    ErrorData, ServerHandler, ServiceExt,
    model::{
        CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, Implementation,
        JsonObject, ListToolsResult, PaginatedRequestParams, ServerCapabilities, ServerConfig,
        Tool,
    },
    service::{RequestContext, RoleServer},
    transport::stdio,
};
use serde_json::{Value, json};
use std::{io, sync::Arc};

/// Name of the tool that takes the report.
const REPORT: &str = "report";
/// Name of the tool that tells of the run.
const RUN_INFO: &str = "run_info";

/// The server of one run.
struct Server {
    places: Places,
    file: RunFile,
}

/// Serves until standard input ends.
///
/// # Errors
/// Where the other side breaks off or does not speak the protocol.
pub async fn serve(places: Places, file: RunFile) -> io::Result<()> {
    let server = Server { places, file };
    let service = server.serve(stdio()).await.map_err(io::Error::other)?;
    service.waiting().await.map_err(io::Error::other)?;
    Ok(())
}

fn object(value: Value) -> Arc<JsonObject> {
    match value {
        Value::Object(object) => Arc::new(object),
        _ => Arc::default(),
    }
}

impl Server {
    fn tools(&self) -> Vec<Tool> {
        let mut tools = vec![Tool::new(
            RUN_INFO,
            "What this run is: its name, role, branch and limits.",
            object(json!({"type": "object", "properties": {}})),
        )];
        let role = self.file.role();
        let schema = role.and_then(schema).map(serde_json::from_str);
        if let Some(Ok(schema)) = schema {
            tools.push(Tool::new(
                REPORT,
                "Leaves the report of this run; says what is wrong where it is not as it should be. \
                 The last one counts, and is handed in when you finish.",
                object(schema),
            ));
        }
        if self.looks() {
            let looks = LOOKS.iter();
            tools.extend(looks.map(|l| Tool::new(l.name, l.about, object(l.schema()))));
        }
        tools
    }

    /// Whether it shows what there is: who reviews has no other eyes.
    fn looks(&self) -> bool {
        self.file.role() == Some(Role::Review)
    }

    fn run_info(&self) -> Value {
        let branch = match &self.file.task {
            RunTask::Engine { branch, .. } => branch.as_deref(),
            RunTask::Checks { .. } => None,
        };
        json!({
            "run": self.file.run,
            "role": self.file.role(),
            "branch": branch,
            "start": self.file.start,
            "wall_seconds": self.file.wall_seconds,
            "disk_bytes": self.file.disk_bytes,
        })
    }

    fn call(&self, request: CallToolRequestParams) -> Result<CallToolResult, ErrorData> {
        let said = |text: String| vec![ContentBlock::text(text)];
        match request.name.as_ref() {
            RUN_INFO => Ok(CallToolResult::success(said(self.run_info().to_string()))),
            REPORT => {
                let text = Value::Object(request.arguments.unwrap_or_default()).to_string();
                match report::put(&self.places, self.file.role(), text.as_bytes()) {
                    Ok(_) => Ok(CallToolResult::success(said(
                        "The report is there; it is handed in when you finish.".to_owned(),
                    ))),
                    Err(error) => Ok(CallToolResult::error(said(crate::chain(&error)))),
                }
            }
            name => match Look::named(name).filter(|_| self.looks()) {
                Some(look) => {
                    let arguments = Value::Object(request.arguments.unwrap_or_default());
                    Ok(match look.call(&self.places, arguments) {
                        Ok(seen) => CallToolResult::success(said(seen)),
                        Err(error) => CallToolResult::error(said(crate::chain(&error))),
                    })
                }
                None => Err(ErrorData::invalid_params(
                    format!("there is no tool `{name}`"),
                    None,
                )),
            },
        }
    }
}

impl ServerHandler for Server {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("factory", env!("CARGO_PKG_VERSION")))
    }

    async fn list_tools(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        self.call(request).map(CallToolResponse::from)
    }
}
