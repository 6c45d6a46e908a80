// What the meter says, in the page's languages.

import { app } from "/scripts/app.js";

const LOCALE = "Comfy.Locale";

const TEXTS = {
  en: {
    weights: "Weights",
    cache: "Cache",
    decoder: "Picture decoder",
    host: "On the host",
    free: "Free",
    nothingYet: "Figures come with the next run.",
    noModel: "Connect a model to see slots and bytes.",
    planning: "Planning.",
    reading: "Reading the prompt.",
    drawing: "Drawing.",
    failed: "The last run stopped with an error.",
    interrupted: "The last run was interrupted.",
    lost: "The connection to the server was lost.",
    planned: "Planned for 1 image",
    row: (row, rows) => `Row ${row} of ${rows}`,
    drawn: (rows) => `${rows} rows drawn`,
    speed: (tokens) => `${tokens} tokens/s`,
    range: (least, most) => `${least} to ${most}`,
    share: (now, reserved) => `${now} of ${reserved}`,
    against: (figure, full) => `${figure}, ${full} in full`,
    less: "less",
    fullCache: (full) => `Full cache of ${full}`,
    saving: (own, full) => `${own} of cache, in full ${full}`,
    slots: (counts) => `Slots: ${counts}`,
    slotsOf: (layers, heads, counts) => `Slots of ${layers} layers and ${heads} heads: ${counts}.`,
    sizes: (own, full) => `${own}, full ${full}`,
    sizesAfter: (rows, own, full) => `After ${rows} rows the cache holds ${own}, a full cache ${full}.`,
    saved: (saving, fold) => `${saving}, ${fold} times less.`,
    sentence: (text) => `${text}.`,
    label: (...sentences) => `KV memory. ${sentences.join(" ")}`,
  },
  zh: {
    weights: "权重",
    cache: "缓存",
    decoder: "图片解码器",
    host: "主机内存",
    free: "空闲",
    nothingYet: "下次运行时显示数据。",
    noModel: "连接模型后显示槽位数和字节数。",
    planning: "正在规划。",
    reading: "正在读取提示词。",
    drawing: "正在绘制。",
    failed: "上次运行因错误而停止。",
    interrupted: "上次运行已取消。",
    lost: "与服务器的连接已断开。",
    planned: "按 1 张图片规划",
    row: (row, rows) => `第 ${row} 行，共 ${rows} 行`,
    drawn: (rows) => `已绘制 ${rows} 行`,
    speed: (tokens) => `${tokens} 词元/秒`,
    range: (least, most) => `${least} 至 ${most}`,
    share: (now, reserved) => `${now} / ${reserved}`,
    against: (figure, full) => `${figure}，完整缓存 ${full}`,
    less: "压缩",
    fullCache: (full) => `完整缓存 ${full}`,
    saving: (own, full) => `缓存 ${own}，完整缓存 ${full}`,
    slots: (counts) => `槽位：${counts}`,
    slotsOf: (layers, heads, counts) => `${layers} 层、每层 ${heads} 个头的槽位：${counts}。`,
    sizes: (own, full) => `${own}，完整 ${full}`,
    sizesAfter: (rows, own, full) => `${rows} 行之后，缓存占用 ${own}，完整缓存为 ${full}。`,
    saved: (saving, fold) => `${saving}，压缩 ${fold} 倍。`,
    sentence: (text) => `${text}。`,
    label: (...sentences) => `KV 内存。${sentences.join("")}`,
  },
};

/** The language of the texts: the page's, or English where they are not in it. */
export function language() {
  const own = app.extensionManager?.setting?.get(LOCALE);
  return own in TEXTS ? own : "en";
}

/** The texts by their names. */
export function texts() {
  return TEXTS[language()];
}
