// Fails unless a fresh build equals the committed one, byte for byte.

import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const web = fileURLToPath(new URL('..', import.meta.url));
const fresh = mkdtempSync(join(tmpdir(), 'eticket-console-'));

function files(folder) {
  const entries = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return new Map(entries.map((entry) => join(entry.parentPath, entry.name)).map((path) => [path.slice(folder.length + 1), readFileSync(path)]));
}

try {
  execFileSync('npm', ['run', '--silent', 'build', '--', '--outDir', fresh, '--logLevel', 'error'], { cwd: web, stdio: 'inherit' });
  const [built, committed] = [files(fresh), files(join(web, 'dist'))];
  const names = [...new Set([...built.keys(), ...committed.keys()])].sort();
  const differing = names.filter((name) => !built.get(name)?.equals(committed.get(name) ?? Buffer.from('missing')));
  if (differing.length > 0) {
    console.error(`dist is not what the source builds: ${differing.join(', ')}. Run \`npm run build\` and commit dist.`);
    process.exitCode = 1;
  } else {
    console.log(`dist is fresh: ${names.length} files`);
  }
} finally {
  rmSync(fresh, { recursive: true, force: true });
}
