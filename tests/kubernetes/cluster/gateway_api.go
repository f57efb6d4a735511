//go:build gateway_api

// Not compiled: it keeps the module, whose manifests `build` copies, among those of this one.
package main

import _ "sigs.k8s.io/gateway-api/apis/v1"
