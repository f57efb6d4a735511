//! How fast `conduit inject` reads.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use anyhow::ensure;
use tokio::time::Instant;

/// Of manifests.
const BYTES: usize = 10_000_000;
const ROUNDS: usize = 5;

/// Says how fast it was, at the median.
///
/// # Errors
/// When it fails.
pub fn run(programs: &Path) -> anyhow::Result<String> {
    let mut manifests = String::with_capacity(BYTES + 4_096);
    let mut count = 0;
    while manifests.len() < BYTES {
        manifests.push_str(&deployment(count));
        count += 1;
    }
    let mut seconds = Vec::new();
    for _ in 0..ROUNDS {
        seconds.push(once(&programs.join("conduit"), manifests.clone().into_bytes(), count)?);
    }
    seconds.sort_by(f64::total_cmp);
    let (least, median, most) = (seconds[0], seconds[ROUNDS / 2], seconds[ROUNDS - 1]);
    let megabytes = manifests.len() as f64 / 1e6;
    Ok(format!(
        "inject: {megabytes:.1} MB, {count} Deployments in {median:.2}s ({least:.2}-{most:.2}): {:.1} MB/s\n",
        megabytes / median
    ))
}

fn once(conduit: &Path, manifests: Vec<u8>, count: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut child = Command::new(conduit)
        .args(["inject", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let mut input = child.stdin.take().expect("it is piped");
    // It may print before it has read all.
    let writer = thread::spawn(move || input.write_all(&manifests));
    let output = child.wait_with_output()?;
    let took = began.elapsed();
    writer.join().expect("it does not panic")?;
    ensure!(output.status.success(), "conduit inject ended with {}", output.status);
    let injected = String::from_utf8_lossy(&output.stdout).matches("name: conduit-init\n").count();
    ensure!(injected == count, "{injected} of {count} Deployments were injected");
    Ok(took.as_secs_f64())
}

/// As people write them.
fn deployment(number: usize) -> String {
    format!(
        "---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: web-{number}
  namespace: shop
  labels:
    app.kubernetes.io/name: web-{number}
    app.kubernetes.io/part-of: shop
spec:
  replicas: 3
  selector:
    matchLabels:
      app.kubernetes.io/name: web-{number}
  template:
    metadata:
      labels:
        app.kubernetes.io/name: web-{number}
    spec:
      serviceAccountName: web-{number}
      # Comments stay where they are.
      containers:
        - name: web
          image: registry.example.org/shop/web:1.{number}.0
          args: [\"--listen=:8080\", '--log-level=info']
          ports:
            - name: http
              containerPort: 8080
          env:
            - name: BACKEND
              value: http://api.shop.svc.cluster.local:8080
            - name: POD_IP
              valueFrom:
                fieldRef:
                  fieldPath: status.podIP
          readinessProbe:
            httpGet:
              path: /ready
              port: http
          resources:
            requests:
              cpu: 100m
              memory: 64Mi
"
    )
}
