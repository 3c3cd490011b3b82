// Writes the PrometheusRule of deploy/kubernetes from docs/prometheus/alerts.yaml: run it when that has changed. A test says so.
import { readFileSync, writeFileSync } from 'node:fs'

const [groups = ''] = /^groups:[\s\S]*/m.exec(readFileSync('docs/prometheus/alerts.yaml', 'utf8')) ?? []
const indented = groups.replace(/^(?=.)/gm, '  ')
writeFileSync(
  'deploy/kubernetes/monitoring/prometheus-rule.yaml',
  `# Made of docs/prometheus/alerts.yaml by scripts/place-rules.mjs.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: headrace
  labels: { app.kubernetes.io/name: headrace }
spec:
${indented}`,
)
