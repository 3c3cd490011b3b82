// What is in deploy/, held against the tools of those who read it.

import { spawnSync } from 'node:child_process'
import { once } from 'node:events'
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  writeFileSync,
} from 'node:fs'
import type { IncomingMessage } from 'node:http'
import { request } from 'node:https'
import { dirname, join } from 'node:path'
import { validate as lint } from 'dockerfile-utils'
import type { Test } from 'tap'
import t from 'tap'
import { parse } from 'yaml'
import { readConfig } from '../src/config/load.ts'
import { METRIC_NAMES } from '../src/observe/metrics.ts'
import { selfSigned } from './support/certificates.ts'
import { newFolder, startFleet } from './support/control.ts'
import type { Manifest } from './support/manifest.ts'
import { manifestsIn, manifestsOf, problemsOf } from './support/manifest.ts'
import { startProgram } from './support/program.ts'
import { skipWithout } from './support/tools.ts'

const UNITS = ['headrace.service', 'headrace.socket']

const text = (file: string) => readFileSync(join('deploy', file), 'utf8')
const configOf = (file: string) => readConfig(text(file), file, {})

t.test('systemd', { skip: skipWithout('systemd-analyze') }, async (t) => {
  const [, version = 0] = /systemd ([0-9]+)/.exec(analyze(['--version']).stdout) ?? []
  const dropIns = readdirSync('deploy/systemd/headrace.service.d').filter(
    (file) => file !== 'notify-reload.conf',
  )
  for (const dropIn of ['', ...dropIns]) {
    await t.test(`its units are correct ${dropIn === '' ? 'alone' : `with ${dropIn}`}`, async (t) => {
      const root = installed(t, dropIn)
      t.match(analyze(['verify', '--man=no', `--root=${root}`, ...UNITS]), {
        status: 0,
        stdout: '',
        stderr: '',
      })
    })
  }

  t.test('verify finds a mistake, so that what it says counts', async (t) => {
    const root = installed(t)
    const file = join(root, 'etc/systemd/system/headrace.service')
    writeFileSync(
      file,
      readFileSync(file, 'utf8').replace('ProtectHome=yes', 'ProtectHome=yess\nProtectHouse=yes'),
    )
    const { stderr } = analyze(['verify', '--man=no', `--root=${root}`, ...UNITS])
    t.match(stderr, /protect home value, ignoring: yess/)
    t.match(stderr, /Unknown key .*ProtectHouse/)
  })

  t.test('notify-reload.conf is for systemd 253 and later', async (t) => {
    const { stderr } = analyze([
      'verify',
      '--man=no',
      `--root=${installed(t, 'notify-reload.conf')}`,
      ...UNITS,
    ])
    t.match(stderr, Number(version) < 253 ? /Failed to parse service type, ignoring: notify-reload/ : /^$/)
  })

  // The README states these numbers.
  const exposures = { '': 1.4, 'low-ports.conf': 1.8, 'sockmap.conf': 2 }
  for (const [dropIn, most] of Object.entries(exposures)) {
    t.test(`it is exposed at ${most} of 10 at most ${dropIn && `with ${dropIn}`}`, async (t) => {
      const words = ['security', '--offline=true', '--no-pager', `--threshold=${most * 10}`]
      const { status, stdout } = analyze([...words, `--root=${installed(t, dropIn)}`, 'headrace.service'])
      t.equal(status, 0, stdout.split('\n').at(-1) ?? stdout)
    })
  }

  t.test(
    'its config takes the sockets of headrace.socket, and has its state where the unit says',
    async (t) => {
      const { listeners, edge } = configOf('systemd/headrace.yaml')
      const streams = [...text('systemd/headrace.socket').matchAll(/^ListenStream=(.*)$/gm)].map(
        ([, port]) => `:${port}`,
      )
      t.strictSame(
        listeners.map(({ address }) => address),
        streams,
      )
      t.match(
        text('systemd/headrace.service'),
        `StateDirectory=${edge.stateDirectory?.replace('/var/lib/', '')}\n`,
      )
    },
  )
})

function analyze(words: readonly string[]) {
  return spawnSync('systemd-analyze', words, {
    encoding: 'utf8',
    env: { PATH: process.env.PATH, LC_ALL: 'C' },
  })
}

/** A root of its own with the units, one drop-in, and what they name: systemd needs nothing else of a machine to check them. */
function installed(t: Test, dropIn = ''): string {
  const root = newFolder(t)
  const units = join(root, 'etc/systemd/system')
  mkdirSync(units, { recursive: true })
  for (const unit of UNITS) copyFileSync(join('deploy/systemd', unit), join(units, unit))
  for (const unit of readdirSync('/lib/systemd/system')) {
    if (unit.endsWith('.target')) cpSync(join('/lib/systemd/system', unit), join(units, unit))
  }
  for (const program of ['usr/local/bin/headrace', 'bin/kill']) {
    mkdirSync(dirname(join(root, program)), { recursive: true })
    writeFileSync(join(root, program), '')
    chmodSync(join(root, program), 0o755)
  }
  if (dropIn !== '') {
    mkdirSync(join(units, 'headrace.service.d'))
    copyFileSync(join('deploy/systemd/headrace.service.d', dropIn), join(units, 'headrace.service.d', dropIn))
  }
  return root
}

t.test('Docker', async (t) => {
  const file = text('docker/Dockerfile')

  t.test('the linter finds nothing in the Dockerfile, and would', async (t) => {
    const settings = { deprecatedMaintainer: 2, instructionCmdMultiple: 2, instructionJSONInSingleQuotes: 2 }
    t.strictSame(lint(file, settings), [])
    const wrong = file.replace('EXPOSE 8080', 'EXPOSE http').replace('--interval=30s', '--intervall=30s')
    t.equal(lint(wrong, settings).length, 2)
  })

  t.test('what runs is no root, needs no shell, and is the program itself', async (t) => {
    const last = file.slice(file.lastIndexOf('\nFROM '))
    const [, user = ''] = /^USER ([0-9]+):[0-9]+$/m.exec(last) ?? []
    t.ok(Number(user) >= 10_000, 'a number, which Kubernetes can see not to be root')
    for (const word of ['HEALTHCHECK [^[]* CMD', 'ENTRYPOINT', 'CMD']) {
      const [, json = ''] = new RegExp(`^${word} (\\[.*\\])$`, 'm').exec(last.replace(/\\\n/g, '')) ?? []
      t.ok(Array.isArray(JSON.parse(json)), `${word} is a list of words, which no shell reads`)
    }
    t.match(file, /^ARG NODE=node:[0-9]+-bookworm-slim$/m, 'a version, and glibc')
  })

  t.test('what it copies is what .dockerignore lets through', async (t) => {
    const copied = [...file.matchAll(/^COPY (?!--from)(.*) \S+$/gm)].flatMap(([, sources = '']) =>
      sources.split(' '),
    )
    const [all, ...let_] = readFileSync('.dockerignore', 'utf8')
      .split('\n')
      .filter((line) => /^[^#]/.test(line))
    t.equal(all, '*')
    t.strictSame(let_.map((line) => line.replace('!', '')).sort(), copied.sort())
    for (const source of copied) t.ok(existsSync(source), source)
  })

  t.test('its config is valid, and keeps its state in the volume', async (t) => {
    const { edge, workers } = configOf('docker/headrace.yaml')
    t.match(file, `VOLUME ${edge.stateDirectory}\n`)
    t.equal(workers, 2)
  })
})

t.test('Kubernetes', async (t) => {
  const folder = 'deploy/kubernetes'
  const { resources } = parse(text('kubernetes/kustomization.yaml')) as { resources: string[] }
  const monitoring = readdirSync(join(folder, 'monitoring')).map((file) => join('monitoring', file))
  const all = [...resources, ...monitoring].flatMap((file) => manifestsOf(join(folder, file)))
  const one = (kind: string) => all.find((manifest) => manifest.kind === kind) as Manifest

  t.test('all manifests are valid, down to the last key', async (t) => {
    t.equal(all.length, 7)
    for (const manifest of all) t.strictSame(problemsOf(manifest), [])
  })

  t.test('a wrong type, a missing key and a misspelt one are found', async (t) => {
    const set = JSON.stringify(one('StatefulSet'))
    const mistakes: [string, string, RegExp][] = [
      ['"periodSeconds":1', '"periodSeconds":"1s"', /periodSeconds must be integer/],
      ['"serviceName"', '"serviceNames"', /serviceNames is unknown/],
      ['"containerPort":8080', '"containerPorts":8080', /must have required property containerPort/],
      ['"readOnlyRootFilesystem"', '"readonlyRootFilesystem"', /readonlyRootFilesystem is unknown/],
    ]
    for (const [right, wrong, problem] of mistakes) {
      t.match(problemsOf(JSON.parse(set.replace(right, wrong)) as Manifest).join(), problem)
    }
  })

  t.test('the pod has time for preStop, the drain of its config, and the ends', async (t) => {
    const { edge, listeners, workers } = configOf('kubernetes/headrace.yaml')
    const spec = podOf(one('StatefulSet'))
    const [container] = spec.containers
    const preStopMs = container.lifecycle.preStop.sleep.seconds * 1_000
    const neededMs = preStopMs + edge.drainTimeoutMs + 30_000
    t.ok(spec.terminationGracePeriodSeconds * 1_000 >= neededMs, `${neededMs} ms are needed`)
    t.strictSame(
      container.ports.map(({ containerPort }) => `:${containerPort}`),
      [listeners[0]?.address, ':9901'],
    )
    t.equal(String(workers), container.resources.requests.cpu)
    const mounts = container.volumeMounts.map(({ mountPath }) => mountPath)
    t.ok(mounts.includes(edge.stateDirectory ?? ''), 'its state is in a volume')
  })

  t.test('its probes need no token, and Prometheus gets the metrics with one', async (t) => {
    const pem = await selfSigned({ names: ['headrace'] })
    const folder = newFolder(t, { 'tls.crt': pem.certificate, 'tls.key': pem.key })
    const config = text('kubernetes/headrace.yaml')
      .replaceAll(/: :[0-9]+$/gm, ': 127.0.0.1:0')
      .replaceAll('/etc/headrace/admin', folder)
      .replaceAll('/var/lib/headrace', join(folder, 'state'))
    writeFileSync(join(folder, 'headrace.yaml'), config)
    const environment = { TOKENS: join(folder, 'tokens.json') }
    const words = ['token', 'create', '--name', 'prometheus', '--role', 'user', '--config', 'headrace.yaml']
    const { stdout: token } = await startProgram(t, words, { cwd: folder, environment }).ended
    const fleet = await startFleet(t, config, { folder, how: { environment } })
    const [listens] = await fleet.says('admin API listens')
    const ask = async (path: string, headers = {}) => {
      const how = { rejectUnauthorized: false, headers, agent: false }
      const asking = request(`https://${listens?.address}${path}`, how)
      asking.end()
      const [response] = (await once(asking, 'response')) as [IncomingMessage]
      response.resume()
      return response.statusCode
    }
    const [container] = podOf(one('StatefulSet')).containers
    for (const probe of ['startupProbe', 'readinessProbe', 'livenessProbe'] as const) {
      t.equal(await ask(container[probe].httpGet.path), 200, probe)
    }
    t.equal(await ask('/metrics'), 401)
    t.equal(await ask('/metrics', { Authorization: `Bearer ${token.trim()}` }), 200)
  })

  t.test(
    'what selects and what is selected have the same labels, and the autoscaler a metric that exists',
    async (t) => {
      const { labels } = one('StatefulSet').spec as never as { labels: undefined }
      t.equal(labels, undefined)
      for (const kind of ['StatefulSet', 'PodDisruptionBudget']) {
        const { selector } = one(kind).spec as { selector: { matchLabels: object } }
        t.strictSame(selector.matchLabels, podLabelsOf(one('StatefulSet')))
      }
      const { selector: monitored } = one('ServiceMonitor').spec as { selector: { matchLabels: object } }
      const services = all.filter(({ kind }) => kind === 'Service')
      t.equal(
        services.filter(({ metadata }) => isPart(monitored.matchLabels, metadata.labels ?? {})).length,
        1,
      )
      const { metrics } = one('HorizontalPodAutoscaler').spec as {
        metrics: { pods?: { metric: { name: string } } }[]
      }
      const name = metrics[0]?.pods?.metric.name ?? ''
      t.ok(METRIC_NAMES.includes(name as never), name)
      t.match(text('kubernetes/prometheus-adapter-rules.yaml'), `seriesQuery: '${name}{`)
    },
  )

  t.test('its alerts are those of docs/', async (t) => {
    const { groups } = parse(readFileSync('docs/prometheus/alerts.yaml', 'utf8')) as { groups: unknown }
    t.strictSame(one('PrometheusRule').spec, { groups }, 'else run node scripts/place-rules.mjs')
  })

  t.test('kustomize puts it together', { skip: skipWithout('kubectl') }, async (t) => {
    const built = spawnSync('kubectl', ['kustomize', folder], { encoding: 'utf8' })
    t.match(built, { status: 0, stderr: '' })
    const manifests = manifestsIn(built.stdout)
    t.equal(manifests.length, 6)
    for (const manifest of manifests) t.strictSame(problemsOf(manifest), [])
    const config = manifests.find(({ kind }) => kind === 'ConfigMap')?.metadata.name
    t.match(config, /^headrace-[a-z0-9]{10}$/)
    const set = manifests.find(({ kind }) => kind === 'StatefulSet') as Manifest
    t.match(podOf(set).volumes, [{ name: 'config', configMap: { name: config } }, {}, {}])
  })
})

interface Probe {
  readonly httpGet: { readonly path: string }
}

interface Pod {
  readonly terminationGracePeriodSeconds: number
  readonly volumes: readonly object[]
  readonly containers: readonly [
    {
      readonly startupProbe: Probe
      readonly readinessProbe: Probe
      readonly livenessProbe: Probe
      readonly lifecycle: { readonly preStop: { readonly sleep: { readonly seconds: number } } }
      readonly ports: readonly { readonly containerPort: number }[]
      readonly resources: { readonly requests: { readonly cpu: string } }
      readonly volumeMounts: readonly { readonly mountPath: string }[]
    },
  ]
}

interface Template {
  readonly template: { readonly metadata: { readonly labels: Record<string, string> }; readonly spec: Pod }
}

const podOf = (set: Manifest) => (set.spec as Template).template.spec
const podLabelsOf = (set: Manifest) => (set.spec as Template).template.metadata.labels

function isPart(some: object, labels: Readonly<Record<string, string>>): boolean {
  return Object.entries(some).every(([name, value]) => labels[name] === value)
}

t.test('the package has what runs, its licence and its documents, and nothing else', async (t) => {
  const packed = spawnSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], { encoding: 'utf8' })
  const [{ files = [] } = {}] = JSON.parse(packed.stdout) as { files?: { path: string }[] }[]
  const paths = files.map(({ path }) => path)
  const needed = [
    'LICENSE',
    'README.md',
    'package.json',
    'dist/cli/headrace.js',
    'dist/cli/demo.html',
    'dist/admin/page/page.html',
    'dist/head/llhttp.wasm',
    'dist/headrace.schema.json',
    'dist/index.d.ts',
    'dist/process/worker.js',
    'dist/process/control.js',
    'dist/engine/linux/thread.js',
    'deploy/systemd/headrace.service',
    'docs/prometheus/alerts.yaml',
  ]
  t.strictSame(
    needed.filter((path) => !paths.includes(path)),
    [],
  )
  const places =
    /^(LICENSE|README\.md|package\.json|dist\/.*|deploy\/(systemd|kubernetes)\/.*|docs\/(grafana\/|prometheus\/|[^/]*\.md).*)$/
  t.strictSame(
    paths.filter((path) => !places.test(path) || /\.(test|map|tsbuildinfo)\b/.test(path)),
    [],
  )
})
