// The names and explanations of decisions, in words.

export const REFER = "refer";
export const NONE = "no_tumor";
export const NO_TUMOR_CLASS = "No tumor class predicted on any slice that was decided.";

export class Wording {
  // `reasons` are the codes of reasons to refer, with their titles.
  constructor(classes, reasons = []) {
    this.classes = classes;
    this.reasons = Object.fromEntries(reasons.map(({code, title}) => [code, title]));
    this.titles = Object.fromEntries(classes.map(({name, title}) => [name, title]));
  }

  title(name) {
    return this.titles[name] ?? name;
  }

  decision(name) {
    if (name === REFER) return "Refer";
    return name === NONE ? "No tumor class" : this.title(name);
  }

  heading(prediction) {
    const name = this.decision(prediction.decision);
    return prediction.decision === REFER ? name : `${name} predicted`;
  }

  meaning(prediction, model) {
    const share = prediction[`p_${prediction.predicted}`];
    const best = this.title(prediction.predicted);
    const none = prediction.predicted === NONE;
    if (prediction.decision === REFER) {
      return `Do not use this answer; a person must look at the slice. Most probable would be ${none ? "the class No tumor" : best} (${rounded(share)}).`;
    }
    const statement = none ? "No tumor class predicted on this slice." : `${best} is the most probable of the four classes.`;
    if (!isCalibrated(model)) return `${statement} This model was not calibrated: ${rounded(share)} is no chance of being right.`;
    // A decision of more than 98.5 % is never shown as certain.
    const [answered, right] = share > 0.985 ? ["0.99 or more", "99 in 100 or more"] : [rounded(share, 2), `${Math.round(100 * share)} in 100`];
    return `${statement} Calibrated on slices kept apart from training: of slices like those, answered with ${answered}, about ${right} are right.`;
  }

  caution(prediction) {
    return prediction.predicted === NONE ? "This is no finding that there is no tumor." : "";
  }

  decisions(slice) {
    return slice.predictions.map((prediction) => this.heading(prediction)).join(" / ");
  }

  peak(share) {
    return share > 1 ? "above 1" : rounded(share, share < 0.1 ? 3 : 2);
  }

  agreement(slice) {
    const [first] = slice.predictions;
    if (slice.agree) return first.decision === REFER ? "All models refer this slice." : `The models agree: ${this.decision(first.decision)}.`;
    return `The models disagree: ${slice.predictions.map(({model, decision}) => `${model} – ${this.decision(decision)}`).join("; ")}.`;
  }

  result(slice) {
    return slice.predictions
      .map((prediction) => {
        const {model, reasons, predicted} = prediction;
        return `${model}: ${this.heading(prediction)}, ${reasons.length ? sentence(reasons) : rounded(prediction[`p_${predicted}`])}`;
      })
      .join("; ");
  }
}

export const sentence = (reasons) => reasons.map(({text}) => text).join("; ");

export function isCalibrated(model) {
  return Object.keys(model.card.rejection ?? {}).length > 0;
}

export function rounded(share, places = 3) {
  const least = 10 ** -places;
  if (share > 0 && share < least / 2) return `<${least}`;
  if (share < 1 && share > 1 - least / 2) return `>${(1 - least).toFixed(places)}`;
  return share.toFixed(places);
}
