// tokenizers_judge.mjs - the ids of `fitq tokenize` against those of the tokenizers library (its npm package), on the same texts.
//
//     FITQ_JUDGE=1 node tokenizers_judge.mjs      FITQ_BINARY, FITQ_TEST_DATA, FITQ_SOURCE_DIR from the environment
//
// It uses the network and takes over a minute, so it runs only where FITQ_JUDGE asks for it, as the whole check does once.
//
// The package is installed by name into a temporary folder, which is removed. Exit: 0 all equal, 1 a difference, 77 skipped, with the
// reason: no data, no network, no package for this system.
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync, existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const source = process.env.FITQ_SOURCE_DIR ?? '.';
const binary = process.env.FITQ_BINARY ?? join(source, 'build/release/fitq');
const data = process.env.FITQ_TEST_DATA;
const folder = mkdtempSync(join(tmpdir(), 'fitq-judge.'));

function leave(status, why) {
    rmSync(folder, { recursive: true, force: true });
    if (why) console.log(why);
    process.exit(status);
}

if (!process.env.FITQ_JUDGE) leave(77, 'skipped: FITQ_JUDGE is not set');

function install() {
    writeFileSync(join(folder, 'package.json'), '{"private": true}');
    const p = spawnSync('npm', ['install', '--no-audit', '--no-fund', '--loglevel=error', 'tokenizers'], { cwd: folder, encoding: 'utf8', timeout: 120000 });
    if (p.error || p.status !== 0) leave(77, `skipped: npm install tokenizers: ${p.error ?? p.stderr.trim().split('\n').pop()}`);
    try {
        return createRequire(join(folder, 'package.json'))('tokenizers').Tokenizer;
    } catch (e) {
        return leave(77, `skipped: the package does not load: ${e.message.split('\n')[0]}`);
    }
}

// ---- texts

// The same numbers everywhere.
function random(seed) {
    let s = BigInt(seed);
    return n => {
        s = (s * 6364136223846793005n + 1442695040888963407n) & 0xffffffffffffffffn;
        return Number((s >> 33n) % BigInt(n));
    };
}

const PIECES = [' ', '  ', '\n', '\r\n', '\t', '\u00a0', '\u3000', '\u2028', '\u0085', '\u180e', '\u200b', '\u200d', "'s", "'LL", "'\u017f", "n't", '!?', '...', '/*', '1', '12345',
    '\u0663\u0664', '\u00bd', '\u2167', 'a', 'word', 'Camel', 'CASE', '\u00e9', 'e\u0301', '\u212b', '\u1e9b\u0323', '\u0915\u093f', '\u0e01\u0e33', '\u65e5\u672c', '\uac00\u11a8',
    '\u1100\u1161', '\u0627\u0644', '\ufb01', '\ud83d\ude00', '\ud83d\udc68\u200d\ud83d\udc69', '\u{1d400}', '\ufffd', '\u0000', '\u0001', '\ufeff', '<|im_end|>', '<|endoftext|>',
    '<|begin_of_text|>', '<think>', '<|im_', '<0x0A>', '_', '-', '{', '\\'];

function randomTexts(n) {
    const next = random(20261122), out = [];
    for (let i = 0; i < n; i++) {
        let s = '';
        for (let k = 1 + next(40); k > 0; k--) s += PIECES[next(PIECES.length)];
        out.push([`random ${i}`, s]);
    }
    return out;
}

// Characters that came with Unicode 15: to PCRE2 10.42, which has version 14, they are unassigned. What a library calls a letter differs
// there with its version.
const NEW = [[0xcf3], [0xece], [0x2ffc, 0x2fff], [0x31ef], [0x10efd, 0x10eff], [0x1123f, 0x11241], [0x11b00, 0x11b09], [0x11f00, 0x11f59], [0x1342f], [0x13439, 0x13455], [0x1b132],
    [0x1b155], [0x1d2c0, 0x1d2d3], [0x1df25, 0x1df2a], [0x1e030, 0x1e08f], [0x1e4d0, 0x1e4f9], [0x2b739], [0x2ebf0, 0x2ee5d], [0x31350, 0x323af], [0x1f6dc], [0x1f774, 0x1f77f], [0x1f7d9],
    [0x1fa75, 0x1fa77], [0x1fa87, 0x1fa88], [0x1faad, 0x1faaf], [0x1fabb, 0x1fabf], [0x1face, 0x1facf], [0x1fada, 0x1fadb], [0x1fae8], [0x1faf7, 0x1faf8]];

// Every character that UnicodeData.txt has a line for.
function codePoints() {
    return readFileSync(join(data, 'text/unicode/UnicodeData.txt'), 'utf8').split('\n').filter(line => line)
        .map(line => parseInt(line.split(';')[0], 16))
        .filter(c => !(c >= 0xd800 && c < 0xe000) && !NEW.some(([lo, hi]) => c >= lo && c <= (hi ?? lo)));
}

function files() {
    const out = [];
    for (const name of readdirSync(join(data, 'text/udhr')).sort()) out.push(join('text/udhr', name));
    out.push('text/wikitext-2/wiki.test.raw', 'text/fitq/calib.txt', 'text/fitq/eval.txt', 'text/emoji-test.txt', 'text/unicode/NormalizationTest.txt');
    return out.map(name => [name, readFileSync(join(data, name), 'utf8')]);
}

// ---- comparing

// fitq reads one text at a time; many small ones are one call each.
function fitq(tokenizer, text, args) {
    return execFileSync(binary, ['tokenize', tokenizer, ...args], { input: text, encoding: 'utf8', maxBuffer: 1 << 30 }).trim().split(' ').filter(x => x).map(Number);
}

function shown(text) {
    return JSON.stringify(text.length > 200 ? text.slice(0, 200) + '...' : text);
}

let failed = 0, compared = 0;
async function compare(judge, path, what, text, special) {
    const want = (await judge.encode(text, null, { addSpecialTokens: special })).getIds();
    const got = fitq(path, text, special ? ['--special'] : []);
    compared++;
    if (want.length === got.length && want.every((id, i) => id === got[i])) return;
    const at = want.findIndex((id, i) => id !== got[i]);
    console.log(`${path}: ${what}: differs at id ${at}\n  text ${shown(text)}\n  library ${want.slice(Math.max(0, at - 3), at + 8)}\n  fitq    ${got.slice(Math.max(0, at - 3), at + 8)}`);
    failed++;
}

// ---- small files whose only purpose is a rule

function byteVocab() {
    const out = {};
    for (let b = 0, extra = 0; b < 256; b++) {
        const self = (b >= 0x21 && b <= 0x7e) || (b >= 0xa1 && b <= 0xac) || b >= 0xae;
        out[String.fromCodePoint(self ? b : 256 + extra++)] = b;
    }
    return out;
}

function ruleFile(name, change) {
    const path = join(folder, `${name}.json`);
    const byteLevel = { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: true };
    const base = { version: '1.0', truncation: null, padding: null, added_tokens: [], normalizer: null, pre_tokenizer: byteLevel, post_processor: null, decoder: byteLevel,
        model: { type: 'BPE', dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, vocab: { ...byteVocab(), aa: 256, bb: 257, 'Ġa': 258 },
            merges: [['a', 'a'], ['b', 'b'], ['Ġ', 'a']] } };
    writeFileSync(path, JSON.stringify({ ...base, ...change }));
    return path;
}

function split(regex, behavior = 'Isolated', invert = false) {
    return { pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Split', pattern: { Regex: regex }, behavior, invert }, { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }] } };
}

function added(...flags) {
    return { added_tokens: flags.map((f, i) => ({ id: 259 + i, single_word: false, lstrip: false, rstrip: false, normalized: false, special: false, ...f })) };
}

// A piece that is cut shows in the ids through aa, bb and Ġa, that only arise inside one piece.
const RULES = {
    isolated: [split('a'), ['aab aa', 'baab']], removed: [split(' ', 'Removed'), ['a a', ' a  aa ', '  ']], contiguous: [split('a', 'Contiguous'), ['aaabb', 'ab']],
    previous: [split('b', 'MergedWithPrevious'), ['abb aab b', 'bb']], next: [split('b', 'MergedWithNext'), ['abb aab b', 'bb', 'bba']],
    inverted: [split('a+', 'Removed', true), ['aab aa', 'bb']], lines: [split('^a|b$'), ['aa\naa\nbb\nbb', 'aab']], empty: [split('x*'), ['aaxxbb', 'aa']],
    interval: [split('a{1,2}+'), ['aaaaaaa', 'aabaa']], space: [split('\\s+'), ['aa\u180ebb', 'aa\u0085bb', 'aa\u2028 bb']], notspace: [split('[^\\S\\n]+'), ['aa  \n bb', 'a\u00a0\na']],
    word: [split('\\w+'), ['aa\u00b2bb', 'aa_bb', 'aa\u0301bb', 'aa\u24b6b']], fold: [split("(?i:'s|aa)"), ["aA'\u017faa", "bb'S"]], tail: [split('\\s+$'), ['aa  \nbb  bb  ', '  \n  ']],
    han: [split('\\p{Han}+'), ['aa\u65e5\u3001bb\u3005']], possessive: [split('a++a|b'), ['aaabb']], behind: [split('(?<=a)a'), ['aaaa']],
    prefix: [{ pre_tokenizer: { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: true } }, ['a', ' a', 'aa a']],
    digits: [{ pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Digits', individual_digits: false }, { type: 'ByteLevel', add_prefix_space: true, trim_offsets: true, use_regex: false }] } }, ['aa12a', '\u00bd\u0663a']],
    punctuation: [{ pre_tokenizer: { type: 'Sequence', pretokenizers: [{ type: 'Punctuation', behavior: 'Contiguous' }, { type: 'ByteLevel', add_prefix_space: false, trim_offsets: true, use_regex: false }] } }, ['aa!?bb', 'a$a\u3002a']],
    longest: [added({ content: 'ab' }, { content: 'abab' }, { content: 'ba' }), ['ababab', 'aabb', 'aababb']],
    single: [added({ content: 'ab', single_word: true }), ['ab', 'ab ab', 'xab ab1 ab_ ab.', '\u00e9ab', 'ab\u200dab', 'ab\u0301 ab', 'ab\u00b2', '\u24b6ab', 'abab ab']],
    strips: [added({ content: 'ab', lstrip: true }, { content: 'cd', rstrip: true }, { content: 'ef', lstrip: true, rstrip: true }),
        ['a  ab  a', 'a  cd  a', ' ef ef  ab cd ab', 'cd  ab', '\u00a0\u3000ab\u180e', 'ef\n\nef']],
    normalized: [{ normalizer: { type: 'NFC' }, ...added({ content: 'e\u0301', normalized: true }, { content: 'a\u0301' }) }, ['\u00e9e\u0301', 'a\u0301\u00e1', 'xe\u0301\u0323']],
    spaces: [added({ content: '  ' }, { content: 'ab', rstrip: true }), ['ab    a', 'a   ab']],
};

async function rules(Tokenizer) {
    for (const [name, [change, texts]] of Object.entries(RULES)) {
        const path = ruleFile(name, change), judge = Tokenizer.fromFile(path);
        for (const text of texts) await compare(judge, path, name, text, false);
    }
}

// ---- all of it

process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
if (!existsSync(binary)) leave(1, `${binary} is not there`);
const Tokenizer = install();
await rules(Tokenizer);
if (data) {
    const all = files();
    for (const name of ['qwen2', 'qwen3', 'llama3.1', 'gpt2']) {
        const path = join(data, 'tokenizers', name, 'tokenizer.json'), judge = Tokenizer.fromFile(path);
        for (const [what, text] of all) await compare(judge, path, what, text, true);
        for (const [what, text] of randomTexts(30)) await compare(judge, path, what, text, false);
        const many = randomTexts(4000).map(x => x[1]).join('\n\u0007\n');
        await compare(judge, path, 'random texts', many, false);
        await compare(judge, path, 'every character', codePoints().map(c => String.fromCodePoint(c)).join(' x'), false);
    }
} else {
    console.log('FITQ_TEST_DATA is not set: no real tokenizers');
}
console.log(`${compared} texts, ${failed} differ`);
leave(failed ? 1 : 0);
