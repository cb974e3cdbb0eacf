// The description of the interface, by Swagger UI.
SwaggerUIBundle({ url: "/openapi.json", dom_id: "#interface", deepLinking: true, tryItOutEnabled: true });
